// SPDX-License-Identifier: Apache-2.0
//
// A process of a given size that does nothing: what is dumped to see how cost grows.
#ifndef MOULT_BENCH_VICTIM_H_
#define MOULT_BENCH_VICTIM_H_

namespace moult::bench {

struct VictimArguments {
  long pages = 0;     // of private memory, written, each with its own content
  long threads = 1;   // in all
  long vmas = 0;      // beyond those that any process has; every other one holds a written page
  long fds = 3;       // in all, 0 to 2 among them
  bool line = false;  // says "ready" on standard output, and has no kVictimReadyFd
};

constexpr int kVictimReadyFd = 3;

// Builds it, writes one byte to kVictimReadyFd and closes that (but see `line`), then waits for ever. Returns
// only on failure.
int RunVictim(const VictimArguments& arguments);

}  // namespace moult::bench

#endif  // MOULT_BENCH_VICTIM_H_
