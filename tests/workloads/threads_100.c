// SPDX-License-Identifier: Apache-2.0
//
// A hundred threads, each with thread-local data and a counter that goes on.
#include "victim.h"

#define THREADS 100
#include "threads.inc"
