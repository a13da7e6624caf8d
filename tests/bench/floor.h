// SPDX-License-Identifier: Apache-2.0
//
// What the kernel alone takes for the work that a dump and a restore cannot do without, measured on this
// machine now.
#ifndef MOULT_BENCH_FLOOR_H_
#define MOULT_BENCH_FLOOR_H_

#include <cstdint>
#include <string>

namespace moult::bench {

// Each part is left out where its number is 0 or its name empty.
struct FloorArguments {
  uint64_t copy_bytes = 0;  // copied out of a stopped child, and from our own memory
  std::string template_dir;  // whose mappings are made and filled
  long threads = 0;  // in all, the leader among them
  long stop_threads = 0;  // that a child has, all of which are stopped and let go
  long look_fds = 0;      // that a child has
  long fds = 0;      // each made, put at its number, and the first one closed
};

// Prints {"stop_us", "look_us", "copy_readv_us", "copy_memcpy_us", "fork_exit_us", "mmaps_us", "fill_us", "fd_calls_us",
// "clones_us"} as JSON. Runs in a process of its own, as small as the tool's is when it starts.
int RunFloor(const FloorArguments& arguments);

}  // namespace moult::bench

#endif  // MOULT_BENCH_FLOOR_H_
