// SPDX-License-Identifier: Apache-2.0
//
// A cgroup namespace of its own.
#define NAMESPACE CLONE_NEWCGROUP
#define NAME "cgroup"
#include "namespace.inc"
