// SPDX-License-Identifier: Apache-2.0
//
// Eight threads, each with thread-local data and a counter that goes on.
#include "victim.h"

#define THREADS 8
#include "threads.inc"
