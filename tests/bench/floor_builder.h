// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_BENCH_FLOOR_BUILDER_H_
#define MOULT_BENCH_FLOOR_BUILDER_H_

#include "floor.h"

namespace moult::bench {

struct BuilderTimes {
  double mmaps_us;     // mmap of all that the process has mapped, mprotect of what had to be writable to be filled
  double fill_us;      // preadv of the template's pages to where they were
  double fd_calls_us;  // eventfd, the cheapest kind there is; dup3 to its number; close
  double clones_us;    // clone3 of all threads but the leader, until each has run and parks on a futex
};

// What any restore must do, with nothing around it, in a forked child. Dies with a message on failure.
BuilderTimes BuildBare(const FloorArguments& arguments);

}  // namespace moult::bench

#endif  // MOULT_BENCH_FLOOR_BUILDER_H_
