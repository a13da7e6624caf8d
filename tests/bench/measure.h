// SPDX-License-Identifier: Apache-2.0
//
// One subject's rounds: dump and floor in turns while it runs, then restore and floor in turns from one
// template.
#ifndef MOULT_BENCH_MEASURE_H_
#define MOULT_BENCH_MEASURE_H_

#include <cstdint>
#include <string>

#include "stats.h"
#include "subject.h"

namespace moult::bench {

// Names of samples, µs.
inline constexpr char kStopped[] = "stopped";       // dump: how long the process stood still
inline constexpr char kTotal[] = "total";           // the tool's own clock
inline constexpr char kWall[] = "wall";             // from the spawn of the tool to its exit
inline constexpr char kContent[] = "content";       // restore: what reads, checks and copies page content
inline constexpr char kRest[] = "rest";             // restore: total less content
inline constexpr char kExcess[] = "excess";         // dump: stopped less the bare copy of the private pages
inline constexpr char kExcessMemcpy[] = "excess_memcpy";  // the same, less a memcpy of as many pages
inline constexpr char kRestFloor[] = "rest_floor";  // bare mmaps, clones, fd calls, fork with exit
inline constexpr char kCopy[] = "copy_readv_us";
inline constexpr char kMemcpy[] = "copy_memcpy_us";
inline constexpr char kStop[] = "stop_us";
inline constexpr char kLook[] = "look_us";
inline constexpr char kBare[] = "stopped_floor";  // bare copy, stop and look
inline constexpr char kFill[] = "fill_us";
inline constexpr char kMmaps[] = "mmaps_us";
inline constexpr char kClones[] = "clones_us";
inline constexpr char kFdCalls[] = "fd_calls_us";
inline constexpr char kForkExit[] = "fork_exit_us";

struct Measurement {
  Subject subject;
  absl::Status status;  // kUnavailable: skipped
  uint64_t private_bytes =
      0;  // what it holds itself: anonymous and shared memory pages, zero pages among them
  uint64_t user_state_bytes = 0;  // what the template holds: pages of zeros are left out
  long threads = 0;
  long vmas = 0;
  long fds = 0;
  Samples dump;
  Samples dump_phases;
  Samples restore;
  Samples restore_phases;
  Samples floor;  // of both kinds of round
};

// Never fails: what went wrong is in the measurement. All that it started is ended when it returns.
Measurement Measure(const Subject& subject, const Places& places, int rounds);

// Whether a signal asked to end; looked at between steps.
bool Interrupted();

}  // namespace moult::bench

#endif  // MOULT_BENCH_MEASURE_H_
