// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_POOL_PROBE_MEDIANS_H_
#define MOULT_POOL_PROBE_MEDIANS_H_

#include <algorithm>
#include <cstddef>
#include <vector>

namespace moult::probe {

// 0 where there are none.
inline double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Of two things measured in turns.
inline double MedianRatio(const std::vector<double>& ours, const std::vector<double>& theirs) {
  std::vector<double> ratios;
  for (size_t i = 0; i < std::min(ours.size(), theirs.size()); ++i) ratios.push_back(ours[i] / theirs[i]);
  return Median(std::move(ratios));
}

}  // namespace moult::probe

#endif  // MOULT_POOL_PROBE_MEDIANS_H_
