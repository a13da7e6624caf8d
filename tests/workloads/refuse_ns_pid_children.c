// SPDX-License-Identifier: Apache-2.0
//
// A pid namespace that only its children would get (unshare).
#define NAMESPACE CLONE_NEWPID
#define NAME "pid"
#define FOR_CHILDREN
#include "namespace.inc"
