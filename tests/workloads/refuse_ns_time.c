// SPDX-License-Identifier: Apache-2.0
//
// A time namespace of its own.
#define BY_CHILDREN
#define NAMESPACE CLONE_NEWTIME
#define NAME "time"
#include "namespace.inc"
