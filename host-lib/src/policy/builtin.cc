// SPDX-License-Identifier: Apache-2.0
#include "policy/builtin.h"

#include <algorithm>

namespace moult::host {
namespace {

bool MayRest(const FunctionView& now) {
  return now.state == FunctionState::kIdle || now.state == FunctionState::kFrozen;
}

Micros Shortened(Micros wait, double pressure, double from) {
  if (pressure <= from) return wait;
  const double left = from < 1 ? std::clamp((1 - pressure) / (1 - from), 0.0, 1.0) : 0;
  return Micros(static_cast<Micros::rep>(static_cast<double>(wait.count()) * left));
}

}  // namespace

uint64_t FunctionView::Resident() const {
  uint64_t bytes = 0;
  for (const SegmentBytes& segment : segments.values) bytes += segment.resident;
  return bytes;
}

uint64_t FunctionView::Offloaded() const {
  uint64_t bytes = 0;
  for (const SegmentBytes& segment : segments.values) bytes += segment.offloaded;
  return bytes;
}

Decision NonePolicy::Next(const FunctionView&) { return {}; }

Decision FixedPolicy::Next(const FunctionView& now) {
  Decision decision;
  if (!MayRest(now)) return decision;
  if (now.Idle() >= parameters_.keep_alive) {
    decision.end = true;
  } else {
    decision.wake_after = parameters_.keep_alive - now.Idle();
  }
  return decision;
}

Micros SemiWarmPolicy::InitAfter(const FunctionView& now) const {
  const Intervals* known = now.intervals;
  if (known == nullptr || known->count() < parameters_.init_known) return parameters_.init_unknown;
  return std::max(parameters_.init_least,
                  std::min(parameters_.init_most, known->Percentile(parameters_.init_percentile)));
}

uint64_t SemiWarmPolicy::StepOf(const SegmentBytes& segment) const {
  const double all = static_cast<double>(segment.resident + segment.offloaded);
  const auto share = static_cast<uint64_t>(all * parameters_.step_share);
  return std::min(segment.resident, std::max(parameters_.step, share));
}

Decision SemiWarmPolicy::Next(const FunctionView& now) {
  Decision decision;
  decision.recall = parameters_.recall;
  if (!MayRest(now)) return decision;

  const auto wait = [&](Micros w) { return Shortened(w, now.pressure, parameters_.pressure_from); };
  const Micros idle = now.Idle();
  const Micros settle = wait(parameters_.settle);
  if (idle < settle) {
    decision.wake_after = settle - idle;
    return decision;
  }
  decision.freeze = true;
  decision.offload[Segment::kExec] = now.segments[Segment::kExec].resident;

  const Micros init = std::max(settle, wait(InitAfter(now)));
  if (idle < init) {
    decision.wake_after = init - idle;
    return decision;
  }
  decision.offload[Segment::kInit] = now.segments[Segment::kInit].resident;

  const SegmentBytes& runtime = now.segments[Segment::kRuntime];
  if (runtime.resident > 0) {
    decision.offload[Segment::kRuntime] = StepOf(runtime);
    decision.wake_after = parameters_.step_every;
    return decision;
  }
  if (now.Resident() > 0) {  // what was just decided, or what could not be moved
    decision.wake_after = parameters_.step_every;
    return decision;
  }
  const Micros end = wait(parameters_.end_after);
  if (idle >= end) {
    Decision gone;
    gone.end = true;
    return gone;
  }
  decision.wake_after = end - idle;
  return decision;
}

}  // namespace moult::host
