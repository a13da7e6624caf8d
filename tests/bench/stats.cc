// SPDX-License-Identifier: Apache-2.0
#include "stats.h"

#include <algorithm>
#include <cmath>

namespace moult::bench {
namespace {

double Rounded(double value) { return std::round(value * 1000) / 1000; }

}  // namespace

Summary Summarize(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  const double median = values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
  return {values.front(), median, values.back()};
}

nlohmann::ordered_json ToJson(const Summary& summary) {
  return {{"min", Rounded(summary.min)}, {"median", Rounded(summary.median)}, {"max", Rounded(summary.max)}};
}

void Samples::Add(const std::string& name, double value) {
  for (auto& [known, values] : samples_) {
    if (known == name) return values.push_back(value);
  }
  samples_.emplace_back(name, std::vector<double>{value});
}

std::vector<double> Samples::Values(const std::string& name) const {
  for (const auto& [known, values] : samples_) {
    if (known == name) return values;
  }
  return {};
}

bool Samples::Has(const std::string& name) const { return !Values(name).empty(); }
Summary Samples::Get(const std::string& name) const { return Summarize(Values(name)); }

nlohmann::ordered_json Samples::Json() const {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (const auto& [name, values] : samples_) json[name] = ToJson(Summarize(values));
  return json;
}

Line FitLine(const std::vector<std::pair<double, double>>& points) {
  if (points.empty()) return {};
  const double n = static_cast<double>(points.size());
  double mean_x = 0;
  double mean_y = 0;
  for (const auto& [x, y] : points) {
    mean_x += x / n;
    mean_y += y / n;
  }
  double square = 0;
  double product = 0;
  for (const auto& [x, y] : points) {
    square += (x - mean_x) * (x - mean_x);
    product += (x - mean_x) * (y - mean_y);
  }
  const double slope = square > 0 ? product / square : 0;
  return {slope, mean_y - slope * mean_x};
}

}  // namespace moult::bench
