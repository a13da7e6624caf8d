// SPDX-License-Identifier: Apache-2.0
//
// Five hundred threads, each with thread-local data and a counter that goes on.
#include "victim.h"

#define THREADS 500
#include "threads.inc"
