// SPDX-License-Identifier: Apache-2.0
//
// Makes traces that have the statistics of a profile. The same options make the same trace.
#ifndef MOULT_BENCH_REPLAY_GENERATE_H_
#define MOULT_BENCH_REPLAY_GENERATE_H_

#include <string>

#include "replay/trace.h"

namespace moult::bench {

struct GenerateOptions {
  uint32_t functions = 1000;
  double hours = 24;
  uint64_t seed = 1;
  std::string profile = "azure";
  double most_per_second = 10;  // rates above are cut off: they make traces long, and policies no trouble
};

// Memory grows with the number of functions only.
absl::Status Generate(const GenerateOptions& options, TraceSink& sink);

}  // namespace moult::bench

#endif  // MOULT_BENCH_REPLAY_GENERATE_H_
