// SPDX-License-Identifier: Apache-2.0
//
// A uts namespace of its own.
#define NAMESPACE CLONE_NEWUTS
#define NAME "uts"
#include "namespace.inc"
