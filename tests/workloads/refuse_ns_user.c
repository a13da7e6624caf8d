// SPDX-License-Identifier: Apache-2.0
//
// A user namespace of its own.
#define NAMESPACE CLONE_NEWUSER
#define NAME "user"
#include "namespace.inc"
