// SPDX-License-Identifier: Apache-2.0
//
// What a handful of rounds says: smallest, middle and largest, and straight lines through such middles.
#ifndef MOULT_BENCH_STATS_H_
#define MOULT_BENCH_STATS_H_

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace moult::bench {

struct Summary {
  double min = 0;
  double median = 0;
  double max = 0;
};
Summary Summarize(std::vector<double> values);
nlohmann::ordered_json ToJson(const Summary& summary);

// Samples in µs under names, in the order in which the names first came.
class Samples {
 public:
  void Add(const std::string& name, double value);
  bool Has(const std::string& name) const;
  Summary Get(const std::string& name) const;  // all zero where there is none
  double Median(const std::string& name) const { return Get(name).median; }
  // Round by round: the rounds of two names pair up where both were measured in each.
  std::vector<double> Values(const std::string& name) const;
  const std::vector<std::pair<std::string, std::vector<double>>>& all() const { return samples_; }
  nlohmann::ordered_json Json() const;

 private:
  std::vector<std::pair<std::string, std::vector<double>>> samples_;
};

struct Line {
  double slope = 0;
  double at_zero = 0;
};
// Least squares. A slope of 0 where all x are equal.
Line FitLine(const std::vector<std::pair<double, double>>& points);

}  // namespace moult::bench

#endif  // MOULT_BENCH_STATS_H_
