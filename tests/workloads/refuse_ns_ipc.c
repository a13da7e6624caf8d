// SPDX-License-Identifier: Apache-2.0
//
// A ipc namespace of its own.
#define NAMESPACE CLONE_NEWIPC
#define NAME "ipc"
#include "namespace.inc"
