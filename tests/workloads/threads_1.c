// SPDX-License-Identifier: Apache-2.0
//
// One thread beside the main one, with thread-local data and a counter that goes on.
#include "victim.h"

#define THREADS 1
#include "threads.inc"
