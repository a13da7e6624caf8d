// SPDX-License-Identifier: Apache-2.0
//
// What is done with a function between its requests: kept, moved out bit by bit, or ended. A policy only
// answers: it has no clock, no thread and no memory of what it said, so that the same view always gets the
// same decision, in a VMM as in a simulation.
#ifndef MOULT_HOST_POLICY_POLICY_H_
#define MOULT_HOST_POLICY_POLICY_H_

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "policy/intervals.h"

namespace moult::host {

// By when a page came to be: before the function's program was up, before it was ready, after its first
// request.
enum class Segment : uint8_t { kRuntime, kInit, kExec };
constexpr size_t kSegments = 3;
constexpr std::array<Segment, kSegments> kAllSegments = {Segment::kRuntime, Segment::kInit, Segment::kExec};

template <typename T>
struct PerSegment {
  std::array<T, kSegments> values{};
  T& operator[](Segment segment) { return values[static_cast<size_t>(segment)]; }
  const T& operator[](Segment segment) const { return values[static_cast<size_t>(segment)]; }
};

struct SegmentBytes {
  uint64_t resident = 0;
  uint64_t offloaded = 0;
};

enum class FunctionState : uint8_t {
  kIdle,       // can take a request, has none
  kRunning,    // has one or more
  kFrozen,     // stands still: what is offloaded may be moved only so
  kRequested,  // idle or frozen, and a request waits: what should come back, and how
};

struct FunctionView {
  uint64_t function = 0;
  FunctionState state = FunctionState::kIdle;
  Micros now{0};         // all three on one clock, which never goes back
  Micros last_start{0};  // of the last request
  Micros last_end{0};
  const Intervals* intervals = nullptr;  // of this function; null: nothing is known
  PerSegment<SegmentBytes> segments;
  double pressure = 0;  // how full the host's memory is, 0 to 1

  Micros Idle() const { return now > last_end ? now - last_end : Micros{0}; }
  uint64_t Resident() const;
  uint64_t Offloaded() const;
};

enum class Recall : uint8_t {
  kFaults,      // nothing ahead: pages come when they are touched
  kWorkingSet,  // ahead, what the last recall touched; the rest stays out until it is touched
  kAll,         // the working set ahead, and then everything else
};

// To be carried out in this order. `end` excludes the others.
struct Decision {
  bool end = false;
  bool freeze = false;
  Recall recall = Recall::kFaults;  // counts in kRequested only
  PerSegment<uint64_t> offload;     // at most so many bytes more; counts of a frozen function only
  Micros wake_after = kNever;       // ask again then, if no request came; a request is always asked about
};

class Policy {
 public:
  virtual ~Policy() = default;
  virtual Decision Next(const FunctionView& now) = 0;
};

// `spec` is NAME[:KEY=VALUE]...: "none", "fixed:keep_alive_s=300", "semi-warm:init_percentile=0.95". Names
// and keys are those of moult/policy.h.
absl::StatusOr<std::unique_ptr<Policy>> MakePolicy(absl::string_view spec);

}  // namespace moult::host

#endif  // MOULT_HOST_POLICY_POLICY_H_
