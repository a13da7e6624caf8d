// SPDX-License-Identifier: Apache-2.0
//
// A net namespace of its own.
#define NAMESPACE CLONE_NEWNET
#define NAME "net"
#include "namespace.inc"
