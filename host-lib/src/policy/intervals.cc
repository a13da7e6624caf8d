// SPDX-License-Identifier: Apache-2.0
#include "policy/intervals.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace moult::host {
namespace {

constexpr uint64_t kFirstEdge = 1000;  // µs: all that is shorter is one bucket
// The quarters of an octave, in 1/65536; integers, so that a bucket's number is the same everywhere.
constexpr uint64_t kQuarters[] = {65536, 77936, 92682, 110218};

// Bucket n holds (Edge(n - 1), Edge(n)].
uint64_t Edge(size_t bucket) { return (kFirstEdge * kQuarters[bucket % 4] << (bucket / 4)) >> 16; }

size_t BucketOf(uint64_t micros, size_t count) {
  if (micros <= kFirstEdge) return 0;
  const auto octave = static_cast<size_t>(std::bit_width((micros - 1) / kFirstEdge) - 1);
  size_t bucket = octave * 4;
  while (bucket < count - 1 && micros > Edge(bucket)) ++bucket;
  return std::min(bucket, count - 1);
}

}  // namespace

void Intervals::Add(Micros interval) {
  const auto micros = static_cast<uint64_t>(std::max<Micros::rep>(interval.count(), 0));
  if (count_ == kMost) {
    count_ = 0;
    for (uint16_t& n : counts_) {
      n = static_cast<uint16_t>(n / 2);
      count_ += n;
    }
  }
  ++counts_[BucketOf(micros, kBuckets)];
  ++count_;
}

Micros Intervals::Percentile(double p) const {
  if (count_ == 0) return Micros{0};
  const double share = std::clamp(p, 0.0, 1.0) * count_;
  const auto wanted = std::max<uint32_t>(1, static_cast<uint32_t>(std::ceil(share)));
  uint32_t seen = 0;
  size_t bucket = 0;
  for (; bucket + 1 < kBuckets; ++bucket) {
    seen += counts_[bucket];
    if (seen >= wanted) break;
  }
  return Micros(static_cast<Micros::rep>(Edge(bucket)));
}

}  // namespace moult::host
