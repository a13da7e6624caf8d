// SPDX-License-Identifier: Apache-2.0
//
// What things cost in a replay.
#ifndef MOULT_BENCH_REPLAY_COST_H_
#define MOULT_BENCH_REPLAY_COST_H_

#include <chrono>
#include <cstdint>

#include "policy/policy.h"

namespace moult::bench {

// Where each default comes from is in trace.md, "Costs".
struct CostModel {
  host::Micros cold_start = std::chrono::milliseconds(1856);  // where the trace does not say
  host::Micros attach = std::chrono::milliseconds(71);
  bool restart_by_attach = false;  // a function that was ended has a template, and comes back from that
  host::Micros thaw = std::chrono::milliseconds(1);
  host::Micros fault{55};       // of one page, fetched from the pool when it is touched
  double offload_mib_s = 90;    // 0: takes no time
  double prefetch_mib_s = 125;  // 0: takes no time
  double prefetch_miss = 0.03;  // share of the touched pages that the recorded working set lacks
  // Share of a segment that a request touches.
  host::PerSegment<double> touch = {{0.2, 0.4, 0.1}};
  uint64_t husk_bytes = 1 << 20;  // what a function takes that has everything offloaded
  uint64_t host_bytes = 0;        // at which memory pressure is 1; 0: there is none
};

}  // namespace moult::bench

#endif  // MOULT_BENCH_REPLAY_COST_H_
