// SPDX-License-Identifier: Apache-2.0
//
// How long a function waits for its next request, as a small histogram: 260 bytes a function, whatever its
// age.
#ifndef MOULT_HOST_POLICY_INTERVALS_H_
#define MOULT_HOST_POLICY_INTERVALS_H_

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace moult::host {

using Micros = std::chrono::microseconds;
constexpr Micros kNever = Micros::max();

// Of the times from the end of a request to the start of the next, which is what a keep-alive timer sees;
// with requests that are short against their spacing, the inter-arrival times. Buckets grow by a quarter of
// an octave from 1 ms to 24 days. The past fades: when kMost are counted, all counts are halved.
class Intervals {
 public:
  static constexpr uint32_t kMost = 4096;

  void Add(Micros interval);
  uint32_t count() const { return count_; }

  // The upper edge of the bucket in which share `p` (0 to 1) of the intervals is reached: at least the true
  // value, and less than 1.2 times it from 1 ms on. Zero when nothing is counted.
  Micros Percentile(double p) const;

 private:
  static constexpr size_t kBuckets = 128;

  std::array<uint16_t, kBuckets> counts_{};
  uint32_t count_ = 0;
};

}  // namespace moult::host

#endif  // MOULT_HOST_POLICY_INTERVALS_H_
