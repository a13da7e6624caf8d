// SPDX-License-Identifier: Apache-2.0
//
// A time namespace that only its children would get (unshare).
#define NAMESPACE CLONE_NEWTIME
#define NAME "time"
#define FOR_CHILDREN
#include "namespace.inc"
