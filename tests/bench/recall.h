// SPDX-License-Identifier: Apache-2.0
//
// From the wish for a function that is offloaded to its first answer, in a real guest, beside the other way to have had
// no memory taken meanwhile: ended, and attached from its template.
#ifndef MOULT_BENCH_RECALL_H_
#define MOULT_BENCH_RECALL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "moult/base/status.h"
#include "stats.h"

namespace moult::bench {

struct RecallArguments {
  std::string json;
  std::string kernel = "6.1";
  std::string bin;      // folder of moultctl
  std::string sources;  // of the functions: tests/demo/functions
  std::string work = "/tmp";
  std::vector<std::string> functions{"python", "node", "java"};
  int rounds = 7;
};

struct RecallFunction {
  std::string name;
  uint64_t offloaded_bytes = 0;  // in the last round
  Samples samples;               // µs: attach, and recall by how it prefetches: working-set, none, all; thaw, and forget, a part of it
};

struct RecallReport {
  std::string accel, guest_kernel;
  int rounds = 0;
  std::vector<RecallFunction> functions;
};

absl::StatusOr<RecallReport> MeasureRecall(const RecallArguments& arguments);

int RunRecall(const RecallArguments& arguments);

}  // namespace moult::bench

#endif  // MOULT_BENCH_RECALL_H_
