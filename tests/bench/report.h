// SPDX-License-Identifier: Apache-2.0
//
// What was measured, for people and for programs. The numbers are the same in both.
#ifndef MOULT_BENCH_REPORT_H_
#define MOULT_BENCH_REPORT_H_

#include <string>
#include <vector>

#include "measure.h"

namespace moult::bench {

// What one more page, thread, mapping or descriptor costs, µs: least squares through the medians of one
// series.
struct Growth {
  std::string series;
  std::string unit;
  size_t points = 0;
  std::vector<std::pair<std::string, Line>> lines;
};
std::vector<Growth> GrowthOf(const std::vector<Measurement>& measurements);

struct Goal {
  std::string subject;
  std::string text;
  double value = 0;
  double limit = 0;
  // How far the medians lie above the smallest rounds, of everything that the value is a difference of. What
  // is within it of the limit cannot be told on a machine as busy as this one was.
  double noise = 0;

  const char* Verdict() const {
    if (value + noise <= limit) return "met";
    return value - noise > limit ? "missed" : "unclear";
  }
};
std::vector<Goal> GoalsOf(const Measurement& measurement);

// How each number was computed; part of both outputs.
const std::vector<std::string>& Method();

void PrintHeader(int rounds);
void PrintRow(const Measurement& measurement);  // as soon as it is there
void PrintSummary(const std::vector<Measurement>& measurements);
nlohmann::ordered_json ReportJson(const std::vector<Measurement>& measurements, int rounds);

}  // namespace moult::bench

#endif  // MOULT_BENCH_REPORT_H_
