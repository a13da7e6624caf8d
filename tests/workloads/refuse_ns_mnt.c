// SPDX-License-Identifier: Apache-2.0
//
// A mnt namespace of its own.
#define NAMESPACE CLONE_NEWNS
#define NAME "mnt"
#include "namespace.inc"
