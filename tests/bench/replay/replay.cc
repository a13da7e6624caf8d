// SPDX-License-Identifier: Apache-2.0
#include "replay/replay.h"

#include <cmath>

#include "moult/base/page.h"

namespace moult::bench {
namespace {

using host::Decision;
using host::FunctionState;
using host::FunctionView;
using host::kAllSegments;
using host::kNever;

Micros Transfer(uint64_t bytes, double mib_s) {
  if (mib_s <= 0) return Micros{0};
  return Micros(std::llround(static_cast<double>(bytes) / (1 << 20) / mib_s * 1e6));
}

double Pages(uint64_t bytes) { return static_cast<double>((bytes + kPage - 1) / kPage); }

}  // namespace

absl::Status Replay::AddFunction(const TraceFunction& from) {
  Function function;
  for (const Segment segment : kAllSegments) {
    Part& part = function.parts[segment];
    part.hot = static_cast<uint64_t>(static_cast<double>(from.bytes[segment]) * cost_.touch[segment]);
    part.cold = from.bytes[segment] - part.hot;
  }
  function.cold_start = from.cold_start.count() > 0 ? from.cold_start : cost_.cold_start;
  functions_.push_back(function);
  ++result_.functions;
  return absl::OkStatus();
}

absl::Status Replay::Invoke(const Invocation& invocation) {
  RunUntil(invocation.at);
  Function& function = functions_[invocation.function];
  Micros wait{0};
  if (function.state == State::kBusy) {
    wait = std::max(Micros{0}, function.ready - now_);
  } else {
    if (function.ran) function.intervals.Add(now_ - function.last_end);
    function.recalling = false;
    wait = function.state == State::kAbsent ? Start(function) : Recall(invocation.function);
    function.ready = now_ + wait;
    function.busy_until = function.ready;
  }
  if (function.recalling && wait.count() > 0) ++result_.recalled;
  result_.latency.Add(wait);
  ++result_.invocations;
  function.state = State::kBusy;
  function.ran = true;
  function.last_start = now_;
  function.busy_until = std::max(function.busy_until, now_ + wait + invocation.duration);
  SetDue(invocation.function, function.busy_until);
  return absl::OkStatus();
}

absl::Status Replay::End(Micros at) {
  RunUntil(at);
  result_.length = at;
  return absl::OkStatus();
}

Micros Replay::Start(Function& function) {
  ++result_.cold_starts;
  result_.resident.Add(cost_.husk_bytes);
  for (const Part& part : function.parts.values) result_.resident.Add(part.Resident());
  return function.ran && cost_.restart_by_attach ? cost_.attach : function.cold_start;
}

void Replay::Bring(Part& part, uint64_t hot, uint64_t cold) {
  part.hot_out -= hot;
  part.cold_out -= cold;
  result_.offloaded.Remove(hot + cold);
  result_.resident.Add(hot + cold);
}

// A move that is under way is given up, and has moved nothing.
Micros Replay::Recall(uint32_t number) {
  Function& function = functions_[number];
  const host::Recall mode = policy_.Next(View(number, FunctionState::kRequested)).recall;
  uint64_t touched = 0;
  uint64_t brought = 0;
  for (const Segment segment : kAllSegments) {
    Part& part = function.parts[segment];
    touched += part.hot_out;
    brought += mode == host::Recall::kAll ? part.Out() : part.hot_out;
    // A request writes what it needs of exec anew; what was there of old is not fetched for that.
    const bool all = mode == host::Recall::kAll || segment == Segment::kExec;
    Bring(part, part.hot_out, all ? part.cold_out : 0);
  }
  result_.recall_bytes += brought;
  Micros wait = std::exchange(function.frozen, false) ? cost_.thaw : Micros{0};
  function.recalling = brought > 0;
  double faults = Pages(touched);
  if (mode != host::Recall::kFaults) {
    wait += Transfer(touched, cost_.prefetch_mib_s);
    faults = std::ceil(faults * cost_.prefetch_miss);
  }
  return wait + Micros(std::llround(faults * static_cast<double>(cost_.fault.count())));
}

FunctionView Replay::View(uint32_t number, FunctionState state) const {
  const Function& function = functions_[number];
  FunctionView view;
  view.function = number;
  view.state = state;
  view.now = now_;
  view.last_start = function.last_start;
  view.last_end = function.last_end;
  view.intervals = &function.intervals;
  for (const Segment segment : kAllSegments) {
    view.segments[segment] = {function.parts[segment].Resident(), function.parts[segment].Out()};
  }
  if (cost_.host_bytes > 0) {
    view.pressure =
        std::min(1.0, static_cast<double>(result_.resident.bytes()) / static_cast<double>(cost_.host_bytes));
  }
  return view;
}

void Replay::Advance(Micros now) {
  now_ = now;
  result_.resident.Advance(now);
  result_.offloaded.Advance(now);
}

// A function has one valid entry in the queue at most. One that became too early is put back when its time
// comes: a function with many requests a second would otherwise fill the queue with entries that are void.
void Replay::SetDue(uint32_t number, Micros at) {
  Function& function = functions_[number];
  function.due = at;
  if (at >= function.queued_at) return;
  function.queued_at = at;
  queue_.emplace(at, number);
}

void Replay::RunUntil(Micros now) {
  while (!queue_.empty() && queue_.top().first <= now) {
    const auto [at, number] = queue_.top();
    queue_.pop();
    Function& function = functions_[number];
    if (function.queued_at != at) continue;
    function.queued_at = kNever;
    if (function.due > at) {
      SetDue(number, function.due);
      continue;
    }
    Advance(at);
    Happen(number);
  }
  Advance(now);
}

void Replay::Happen(uint32_t number) {
  Function& function = functions_[number];
  switch (function.state) {
    case State::kAbsent:
      function.due = kNever;
      return;
    case State::kBusy:
      function.last_end = now_;
      return Ask(number);
    case State::kMoving:
      Move(function);
      if (function.wake > now_) return Rest(number);
      return Ask(number);
    case State::kResting:
      return Ask(number);
  }
}

void Replay::Rest(uint32_t number) {
  functions_[number].state = State::kResting;
  SetDue(number, functions_[number].wake);
}

void Replay::Ask(uint32_t number) {
  Function& function = functions_[number];
  const FunctionView view = View(number, function.frozen ? FunctionState::kFrozen : FunctionState::kIdle);
  const Decision decision = policy_.Next(view);
  if (decision.end) {
    Leave(function);
    return;
  }
  function.frozen |= decision.freeze;
  // Time must go on, whatever a policy says.
  const Micros most = kNever - now_;
  function.wake = decision.wake_after >= most ? kNever : now_ + std::max(decision.wake_after, Micros{1});
  uint64_t bytes = 0;
  for (const Segment segment : kAllSegments) {
    function.moving[segment] =
        function.frozen ? std::min(decision.offload[segment], view.segments[segment].resident) : 0;
    bytes += function.moving[segment];
  }
  const Micros takes = Transfer(bytes, cost_.offload_mib_s);
  if (takes.count() == 0) {
    Move(function);
    return Rest(number);
  }
  function.state = State::kMoving;
  SetDue(number, now_ + takes);
}

void Replay::Move(Function& function) {
  for (const Segment segment : kAllSegments) {
    Part& part = function.parts[segment];
    const uint64_t bytes = std::exchange(function.moving[segment], 0);
    const uint64_t cold = std::min(bytes, part.cold - part.cold_out);
    part.cold_out += cold;
    part.hot_out += bytes - cold;
    result_.resident.Remove(bytes);
    result_.offloaded.Add(bytes);
    result_.offload_bytes += bytes;
  }
}

void Replay::Leave(Function& function) {
  ++result_.ends;
  result_.resident.Remove(cost_.husk_bytes);
  for (Part& part : function.parts.values) {
    result_.resident.Remove(part.Resident());
    result_.offloaded.Remove(part.Out());
    part.hot_out = 0;
    part.cold_out = 0;
  }
  function.frozen = false;
  function.state = State::kAbsent;
  function.due = kNever;
}

absl::Status ReplayAll::AddFunction(const TraceFunction& function) {
  for (const auto& replay : replays_) MOULT_RETURN_IF_ERROR(replay->AddFunction(function));
  return absl::OkStatus();
}

absl::Status ReplayAll::Invoke(const Invocation& invocation) {
  for (const auto& replay : replays_) MOULT_RETURN_IF_ERROR(replay->Invoke(invocation));
  return absl::OkStatus();
}

absl::Status ReplayAll::End(Micros at) {
  for (const auto& replay : replays_) MOULT_RETURN_IF_ERROR(replay->End(at));
  return absl::OkStatus();
}

}  // namespace moult::bench
