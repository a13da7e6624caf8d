// SPDX-License-Identifier: Apache-2.0
//
// The policies that come with the library. Sources: FaaSMem (Xu et al., ASPLOS '24) for segments and the
// semi-warm state; Shahrad et al. (ATC '20) for learning from a function's own intervals.
#ifndef MOULT_HOST_POLICY_BUILTIN_H_
#define MOULT_HOST_POLICY_BUILTIN_H_

#include "policy/policy.h"

namespace moult::host {

// Keeps all for ever: the upper bound of memory, and the lower bound of latency.
class NonePolicy final : public Policy {
 public:
  Decision Next(const FunctionView& now) override;
};

// Ends a function that had no request for a time: what platforms do.
struct FixedParameters {
  // Azure 20 minutes and AWS 10 in 2020 (Shahrad et al.), Huawei 1 (Joosen et al., EuroSys '25).
  Micros keep_alive = std::chrono::minutes(10);
};
class FixedPolicy final : public Policy {
 public:
  explicit FixedPolicy(const FixedParameters& parameters) : parameters_(parameters) {}
  Decision Next(const FunctionView& now) override;

 private:
  const FixedParameters parameters_;
};

struct SemiWarmParameters {
  // The exec segment is garbage of the last request, so it goes at once; but a freeze and a thaw for each of
  // many requests a second would cost more than they save. (In tests/bench/trace.md's day, a second instead
  // of a tenth spares two recalls in five and costs half a percent of memory.)
  Micros settle = std::chrono::seconds(1);

  // The init segment goes when a request has become unlikely: after this percentile of the function's own
  // intervals, so that at most 1 of 100 requests meets its absence (but see `init_most`).
  double init_percentile = 0.99;
  // Fewer intervals say little about their percentile; until then `init_unknown` is waited.
  uint32_t init_known = 10;
  Micros init_unknown = std::chrono::seconds(60);
  // A function with requests every few ms has a pause now and then; it is not worth a recall.
  Micros init_least = std::chrono::seconds(1);
  // A rare function's percentile is hours. It would never be moved, though a recall costs it little.
  Micros init_most = std::chrono::minutes(10);

  // The runtime segment follows in small steps, so that a request that comes meanwhile finds most of it, and
  // so that a host full of idle functions does not fill its way to the pool at one moment. A step is the
  // larger of a size and a share of the segment: whatever its size, it is gone in 100 steps.
  uint64_t step = 1 << 20;
  double step_share = 0.01;
  Micros step_every = std::chrono::seconds(1);

  // A function with nothing left costs a frozen process, kernel memory of the guest, and pool space; after
  // this long without a request, even those are worth more than what a start from the template costs.
  Micros end_after = std::chrono::hours(4);

  // All would be the careful choice where no working set is known. Where it is, the rest is not needed for
  // the request, and would have to go out again: on the same day, 20 % instead of 69 % of memory saved, with
  // the same latency.
  Recall recall = Recall::kWorkingSet;

  // From here to a full host, the waits above shrink to nothing, in a straight line.
  double pressure_from = 0.8;
};
class SemiWarmPolicy final : public Policy {
 public:
  explicit SemiWarmPolicy(const SemiWarmParameters& parameters) : parameters_(parameters) {}
  Decision Next(const FunctionView& now) override;

 private:
  Micros InitAfter(const FunctionView& now) const;
  uint64_t StepOf(const SegmentBytes& segment) const;

  const SemiWarmParameters parameters_;
};

}  // namespace moult::host

#endif  // MOULT_HOST_POLICY_BUILTIN_H_
