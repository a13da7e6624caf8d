// SPDX-License-Identifier: Apache-2.0
//
// Percentiles of any number of latencies in bounded memory.
#ifndef MOULT_BENCH_REPLAY_LATENCIES_H_
#define MOULT_BENCH_REPLAY_LATENCIES_H_

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

#include "policy/policy.h"

namespace moult::bench {

// Mean and largest are exact. A percentile is too high by less than 1 %, exact under 128 µs and at the top.
class Latencies {
 public:
  void Add(host::Micros latency) {
    const auto micros = static_cast<uint64_t>(latency.count());
    ++counts_[BucketOf(micros)];
    ++count_;
    sum_ += micros;
    most_ = std::max(most_, micros);
  }

  uint64_t count() const { return count_; }
  double Mean() const { return count_ > 0 ? static_cast<double>(sum_) / static_cast<double>(count_) : 0; }
  uint64_t Largest() const { return most_; }

  // The smallest value that share `p` of all do not exceed.
  uint64_t Percentile(double p) const {
    const auto wanted = static_cast<uint64_t>(std::ceil(p * static_cast<double>(count_)));
    uint64_t seen = 0;
    for (size_t i = 0; i < counts_.size(); ++i) {
      seen += counts_[i];
      if (seen >= wanted && seen > 0) return std::min(LargestOf(i), most_);
    }
    return most_;
  }

 private:
  // As floating point has it: kFine buckets to an octave.
  static constexpr uint64_t kFine = 128;
  static constexpr int kFineBits = 7;

  static size_t BucketOf(uint64_t micros) {
    if (micros < kFine) return micros;
    const int shift = static_cast<int>(std::bit_width(micros)) - 1 - kFineBits;
    return static_cast<size_t>(shift + 1) * kFine + ((micros >> shift) - kFine);
  }
  static uint64_t LargestOf(size_t bucket) {
    if (bucket < kFine) return bucket;
    const size_t shift = bucket / kFine - 1;
    return ((bucket % kFine + kFine + 1) << shift) - 1;
  }

  std::vector<uint64_t> counts_ = std::vector<uint64_t>(kFine * (64 - kFineBits + 1));
  uint64_t count_ = 0;
  uint64_t sum_ = 0;
  uint64_t most_ = 0;
};

}  // namespace moult::bench

#endif  // MOULT_BENCH_REPLAY_LATENCIES_H_
