// SPDX-License-Identifier: Apache-2.0
//
// What attaching a template in place takes in a real guest, how that grows with the template's size, and what
// the driver alone takes there for the same pages.
#ifndef MOULT_BENCH_ATTACH_H_
#define MOULT_BENCH_ATTACH_H_

#include <string>
#include <vector>

#include "moult/base/status.h"
#include "stats.h"

namespace moult::bench {

struct AttachArguments {
  std::string json;
  std::string control;         // of a VM that is there; empty: one is booted
  std::string kernel = "6.1";  // of the one that is booted
  std::string bin;             // folder of moultctl, moult-bench and attach_bench
  std::string work = "/tmp";
  int rounds = 7;
  int most_mib = 1024;
};

struct AttachSize {
  uint64_t mib = 0;
  uint64_t pages = 0;   // of content that the template holds
  double first_us = 0;  // the attach that finds the template unchecked
  Samples samples;      // total and phases of those after it
};

struct AttachReport {
  std::string accel, guest_kernel;
  int rounds = 0;
  std::vector<AttachSize> sizes;
  nlohmann::json floor;  // what attach_bench says
};

absl::StatusOr<AttachReport> MeasureAttach(const AttachArguments& arguments);

// What one more page costs and an attach of none, ns: least squares over the sizes, through the medians of
// the rounds or through the quickest of each. The quickest are what is left on a machine that others use as
// well. `part`: "total", or a phase.
Line GrowthByMedians(const AttachReport& report, const std::string& part);
Line GrowthByQuickest(const AttachReport& report, const std::string& part);
Line GrowthOfFloor(const AttachReport& report);

int RunAttach(const AttachArguments& arguments);

}  // namespace moult::bench

#endif  // MOULT_BENCH_ATTACH_H_
