// SPDX-License-Identifier: Apache-2.0
#include "capi/capi.h"
#include "moult/policy.h"
#include "policy/policy.h"

using moult::capi::Guarded;
using moult::capi::TakeOptions;

struct moult_intervals {
  moult::host::Intervals intervals;
};

struct moult_policy {
  std::unique_ptr<moult::host::Policy> policy;
};

namespace moult::capi {
namespace {

using host::Decision;
using host::FunctionState;
using host::FunctionView;
using host::kAllSegments;
using host::kNever;
using host::Micros;
using host::Recall;
using host::Segment;

static_assert(MOULT_SEGMENTS == host::kSegments);
static_assert(MOULT_SEGMENT_EXEC == static_cast<int>(Segment::kExec));
static_assert(MOULT_FUNCTION_REQUESTED == static_cast<int>(FunctionState::kRequested));
static_assert(MOULT_RECALL_ALL == static_cast<int>(Recall::kAll));

// Times that no clock shows and sizes that no host has are cut off, so that no sum of a few overflows.
constexpr uint64_t kMost = uint64_t{1} << 60;
Micros ToMicros(uint64_t micros) { return Micros(static_cast<Micros::rep>(std::min(micros, kMost))); }
uint64_t FromMicros(Micros micros) { return static_cast<uint64_t>(micros.count()); }

absl::StatusOr<FunctionView> FromC(const moult_function_view& from) {
  if (from.state > MOULT_FUNCTION_REQUESTED) {
    return absl::InvalidArgumentError(absl::StrCat("moult_function_view: there is no state ", from.state));
  }
  if (!(from.pressure >= 0 && from.pressure <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("moult_function_view: pressure is ", from.pressure, "; it goes from 0 to 1"));
  }
  FunctionView view;
  view.function = from.function;
  view.state = static_cast<FunctionState>(from.state);
  view.now = ToMicros(from.now_us);
  view.last_start = ToMicros(from.last_start_us);
  view.last_end = ToMicros(from.last_end_us);
  view.pressure = from.pressure;
  view.intervals = from.intervals != nullptr ? &from.intervals->intervals : nullptr;
  for (const Segment segment : kAllSegments) {
    const auto i = static_cast<size_t>(segment);
    view.segments[segment] = {std::min(from.resident[i], kMost), std::min(from.offloaded[i], kMost)};
  }
  return view;
}

moult_policy_decision ToC(const Decision& from, const FunctionView& view) {
  moult_policy_decision to = MOULT_INIT(to);
  to.end = from.end ? 1 : 0;
  to.freeze = from.freeze ? 1 : 0;
  to.recall = static_cast<uint32_t>(from.recall);
  for (const Segment segment : kAllSegments) {
    to.offload[static_cast<size_t>(segment)] =
        std::min(from.offload[segment], view.segments[segment].resident);
  }
  to.wake_after_us = from.wake_after == kNever ? UINT64_MAX : FromMicros(from.wake_after);
  return to;
}

// The embedder's own.
class CallbackPolicy final : public host::Policy {
 public:
  explicit CallbackPolicy(const moult_policy_options& options) : options_(options) {}

  Decision Next(const FunctionView& now) override {
    moult_intervals intervals{};
    moult_function_view view = MOULT_INIT(view);
    view.function = now.function;
    view.state = static_cast<uint32_t>(now.state);
    view.now_us = FromMicros(now.now);
    view.last_start_us = FromMicros(now.last_start);
    view.last_end_us = FromMicros(now.last_end);
    view.pressure = now.pressure;
    for (const Segment segment : kAllSegments) {
      const auto i = static_cast<size_t>(segment);
      view.resident[i] = now.segments[segment].resident;
      view.offloaded[i] = now.segments[segment].offloaded;
    }
    if (now.intervals != nullptr) {
      intervals.intervals = *now.intervals;
      view.intervals = &intervals;
    }
    moult_policy_decision said = MOULT_INIT(said);
    said.wake_after_us = UINT64_MAX;
    options_.next(options_.user, &view, &said);
    return Understood(said);
  }

 private:
  static Decision Understood(const moult_policy_decision& said) {
    Decision decision;
    decision.end = said.end != 0;
    decision.freeze = said.freeze != 0;
    if (said.recall <= MOULT_RECALL_ALL) decision.recall = static_cast<Recall>(said.recall);
    for (const Segment segment : kAllSegments) {
      decision.offload[segment] = said.offload[static_cast<size_t>(segment)];
    }
    decision.wake_after = said.wake_after_us >= kMost ? kNever : ToMicros(said.wake_after_us);
    return decision;
  }

  const moult_policy_options options_;
};

absl::Status Next(moult_policy* policy, const moult_function_view* view, moult_policy_decision* decision) {
  if (policy == nullptr) return absl::InvalidArgumentError("policy is NULL");
  if (decision == nullptr || decision->size < sizeof(size_t)) {
    return absl::InvalidArgumentError(
        "moult_policy_decision: set its size to sizeof the structure (MOULT_INIT)");
  }
  MOULT_ASSIGN_OR_RETURN(const moult_function_view given, TakeOptions(view, "moult_function_view"));
  MOULT_ASSIGN_OR_RETURN(const FunctionView seen, FromC(given));
  moult_policy_decision ours = ToC(policy->policy->Next(seen), seen);
  const size_t size = decision->size;
  ours.size = size;
  std::memset(decision, 0, size);
  std::memcpy(decision, &ours, std::min(size, sizeof(ours)));
  return absl::OkStatus();
}

}  // namespace
}  // namespace moult::capi

extern "C" {

int moult_intervals_create(struct moult_intervals** intervals) {
  return Guarded([&]() -> absl::Status {
    if (intervals == nullptr) return absl::InvalidArgumentError("intervals is NULL");
    *intervals = new moult_intervals{};
    return absl::OkStatus();
  });
}

void moult_intervals_free(struct moult_intervals* intervals) { delete intervals; }

void moult_intervals_add(struct moult_intervals* intervals, uint64_t interval_us) {
  intervals->intervals.Add(moult::capi::ToMicros(interval_us));
}

uint32_t moult_intervals_count(const struct moult_intervals* intervals) {
  return intervals->intervals.count();
}

uint64_t moult_intervals_percentile(const struct moult_intervals* intervals, double p) {
  return moult::capi::FromMicros(intervals->intervals.Percentile(p));
}

int moult_policy_open(const char* spec, struct moult_policy** policy) {
  return Guarded([&]() -> absl::Status {
    if (spec == nullptr) return absl::InvalidArgumentError("spec is NULL");
    if (policy == nullptr) return absl::InvalidArgumentError("policy is NULL");
    *policy = nullptr;
    MOULT_ASSIGN_OR_RETURN(auto made, moult::host::MakePolicy(spec));
    *policy = new moult_policy{std::move(made)};
    return absl::OkStatus();
  });
}

int moult_policy_create(const struct moult_policy_options* options, struct moult_policy** policy) {
  return Guarded([&]() -> absl::Status {
    if (policy == nullptr) return absl::InvalidArgumentError("policy is NULL");
    *policy = nullptr;
    MOULT_ASSIGN_OR_RETURN(const moult_policy_options ours, TakeOptions(options, "moult_policy_options"));
    if (ours.next == nullptr) return absl::InvalidArgumentError("moult_policy_options: next is NULL");
    *policy = new moult_policy{std::make_unique<moult::capi::CallbackPolicy>(ours)};
    return absl::OkStatus();
  });
}

void moult_policy_close(struct moult_policy* policy) { delete policy; }

int moult_policy_next(struct moult_policy* policy, const struct moult_function_view* view,
                      struct moult_policy_decision* decision) {
  return Guarded([&]() -> absl::Status { return moult::capi::Next(policy, view, decision); });
}

}  // extern "C"
