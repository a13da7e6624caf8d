// SPDX-License-Identifier: Apache-2.0
#include "keeper.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "host_memory.h"
#include "kept.h"
#include "methods.h"
#include "moult/base/status.h"
#include "moult/pager.h"
#include "moult/pages.h"

namespace moult::control {
namespace {

constexpr std::chrono::seconds kAfterTrouble(60);
// Somebody waits. The agent may still be at what was cancelled for the request. Each further wait is twice as long.
constexpr std::chrono::milliseconds kFirstWait(50);
constexpr std::chrono::milliseconds kLongestWait(5000);
constexpr int kMostTriesToLeave = 8;
// What others do to a function is seen no later.
constexpr std::chrono::minutes kLookEvery(5);
// A guest that makes everything fail does not fill the log.
constexpr std::chrono::seconds kBetweenMessages(10);
constexpr uint64_t kLeastWaitUs = 10'000;  // whatever a policy says
constexpr uint64_t kPageMask = 4095;
// Exec first: it goes at once, and the rest only when nothing came meanwhile.
constexpr std::array<uint32_t, MOULT_SEGMENTS> kOffloadOrder = {MOULT_SEGMENT_EXEC, MOULT_SEGMENT_INIT, MOULT_SEGMENT_RUNTIME};

uint64_t MicrosOf(Keeper::Clock::time_point time) {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(time.time_since_epoch()).count());
}

Keeper::Clock::time_point After(Keeper::Clock::time_point now, uint64_t micros) {
  constexpr uint64_t kMost = uint64_t{1} << 50;  // 35 years: no time point overflows
  return micros > kMost ? Keeper::Clock::time_point::max() : now + std::chrono::microseconds(micros);
}

uint64_t Number(const Json& json, const char* name) {
  const auto found = json.find(name);
  return found != json.end() && found->is_number_unsigned() ? found->get<uint64_t>() : 0;
}

uint32_t PrefetchOf(uint32_t recall) {
  switch (recall) {
    case MOULT_RECALL_WORKING_SET:
      return MOULT_PREFETCH_WORKING_SET;
    case MOULT_RECALL_ALL:
      return MOULT_PREFETCH_ALL;
    default:
      return MOULT_PREFETCH_NONE;
  }
}

bool Moves(const moult_policy_decision& decision) {
  return std::any_of(std::begin(decision.offload), std::end(decision.offload), [](uint64_t bytes) { return bytes > 0; });
}

}  // namespace

Keeper::Keeper(moult_vm* vm, Hooks hooks) : vm_(vm), hooks_(std::move(hooks)) {}
Keeper::~Keeper() = default;

void Keeper::Log(int level, const std::string& message) const {
  if (hooks_.log) hooks_.log(level, message);
}

absl::Status Keeper::Set(uint64_t function, const std::string& spec) {
  moult_policy* policy = nullptr;
  if (moult_policy_open(spec.c_str(), &policy) < 0) return LastError();
  auto& place = kept_[function];
  if (place == nullptr) {
    place = std::make_unique<Kept>(this, function);
    if (moult_intervals_create(&place->intervals) < 0) {
      kept_.erase(function);
      moult_policy_close(policy);
      return LastError();
    }
  }
  Kept& kept = *place;
  moult_policy_close(std::exchange(kept.policy, policy));
  kept.spec = spec;
  kept.leaving = kept.moving = false;
  if (std::exchange(kept.ended, false)) {  // Of a guest before this one: nothing is known of this function.
    kept.look = kept.frozen = true;
    kept.looked = {};
    kept.measured = false;
  }
  kept.not_let_run = absl::OkStatus();
  kept.last_end = kept.wake = Clock::now();
  const std::vector<Left> left = std::exchange(kept.left, {});
  Go(kept);
  for (const Left& one : left) one(absl::AbortedError(absl::StrCat("policy: function ", function, " has been given another one meanwhile")));
  return absl::OkStatus();
}

void Keeper::Leave(uint64_t function, Left left) {
  const auto found = kept_.find(function);
  if (found == kept_.end()) return left(absl::NotFoundError(absl::StrCat("policy: function ", function, " has none")));
  Kept& kept = *found->second;
  kept.left.push_back(std::move(left));
  if (std::exchange(kept.leaving, true)) return;
  kept.moving = false;
  kept.tries = 0;
  kept.wake = Clock::now();
  Cancel(kept);
  Go(kept);
  Sweep();
}

void Keeper::Hold(uint64_t function) {
  ++held_[function];
  if (const auto found = kept_.find(function); found != kept_.end()) found->second->moving = false;
}

void Keeper::Release(uint64_t function) {
  const auto held = held_.find(function);
  if (held == held_.end() || --held->second > 0) return;
  held_.erase(held);
  const auto found = kept_.find(function);
  if (found == kept_.end()) return;
  // Nothing that was known of it need be so any more.
  Kept& kept = *found->second;
  kept.look = kept.recalls = true;
  kept.looked = {};
  kept.measured = false;
  kept.tries = 0;
  kept.wake = Clock::now();
  Go(kept);
}

bool Keeper::Busy(uint64_t function) const {
  const auto found = kept_.find(function);
  return found != kept_.end() && found->second->op != nullptr;
}

void Keeper::Interrupt(uint64_t function) {
  if (const auto found = kept_.find(function); found != kept_.end()) Cancel(*found->second);
}

void Keeper::Clear() {
  for (const auto& [function, kept] : kept_) {
    Cancel(*kept);
    kept->leaving = kept->ended = true;
    kept->frozen = kept->look = false;
  }
  Sweep();
}

void Keeper::Cancel(Kept& kept) {
  if (kept.op == nullptr || kept.cancelled) return;
  kept.cancelled = true;
  moult_op_cancel(kept.op);
}

// Forgets those that may go.
void Keeper::Sweep() {
  std::vector<uint64_t> gone;
  for (const auto& [function, kept] : kept_) {
    if (kept->leaving && kept->op == nullptr && !kept->frozen) gone.push_back(function);
  }
  for (const uint64_t function : gone) Forget(function, kept_[function]->not_let_run);
}

void Keeper::Forget(uint64_t function, const absl::Status& status) {
  const auto kept = std::move(kept_[function]);
  kept_.erase(function);
  for (const Left& left : kept->left) left(status);
}

void Keeper::Begin(uint64_t function) {
  if (function == 0 || requests_[function]++ > 0) return;
  const auto found = kept_.find(function);
  if (found == kept_.end()) return;
  Kept& kept = *found->second;
  const Clock::time_point now = Clock::now();
  moult_intervals_add(kept.intervals, MicrosOf(now) - MicrosOf(kept.last_end));
  kept.last_start = kept.wake = now;
  kept.measured = kept.moving = false;
  kept.tries = 0;
  if (kept.step == Step::kFreeze || kept.step == Step::kMeasure || kept.step == Step::kOffload) Cancel(kept);
  Go(kept);
}

void Keeper::End(uint64_t function) {
  const auto under_way = requests_.find(function);
  if (under_way == requests_.end() || --under_way->second > 0) return;
  requests_.erase(under_way);
  const auto found = kept_.find(function);
  if (found == kept_.end()) return;
  Kept& kept = *found->second;
  kept.last_end = kept.wake = Clock::now();
  Go(kept);
}

size_t Keeper::Requests(uint64_t function) const {
  const auto found = requests_.find(function);
  return found != requests_.end() ? found->second : 0;
}

bool Keeper::IsAsked(const Kept& kept) const { return Requests(kept.function) > 0; }

Keeper::Clock::time_point Keeper::next() const {
  Clock::time_point next = Clock::time_point::max();
  for (const auto& [function, kept] : kept_) {
    if (kept->op != nullptr || held_.contains(function)) continue;
    const bool runs = IsAsked(*kept) || kept->leaving;
    if (!runs || kept->frozen) next = std::min(next, kept->wake);
  }
  return next;
}

void Keeper::Tick() {
  for (const auto& [function, kept] : kept_) Go(*kept);
  Sweep();
}

void Keeper::Go(Kept& kept) {
  if (kept.op != nullptr || held_.contains(kept.function)) return;  // the end of either comes back here
  const bool due = Clock::now() >= kept.wake;
  if (kept.look && due) {
    Look(kept);
  } else if (IsAsked(kept) || kept.leaving) {
    if (kept.frozen && due) Serve(kept);
  } else if (kept.moving) {
    OffloadNext(kept);
  } else if (due) {
    Rest(kept);
  }
}

bool Keeper::Ask(Kept& kept, uint32_t state, moult_policy_decision* decision) {
  moult_function_view view = MOULT_INIT(view);
  view.function = kept.function;
  view.state = state;
  view.now_us = MicrosOf(Clock::now());
  view.last_start_us = MicrosOf(kept.last_start);
  view.last_end_us = MicrosOf(kept.last_end);
  view.pressure = HostPressure();
  std::copy(kept.resident.begin(), kept.resident.end(), view.resident);
  std::copy(kept.offloaded.begin(), kept.offloaded.end(), view.offloaded);
  view.intervals = kept.intervals;
  if (moult_policy_next(kept.policy, &view, decision) >= 0) return true;
  Failed(kept, LastError());
  return false;
}

void Keeper::Look(Kept& kept) {
  Start(kept, Step::kLook, [&](const moult_op_options& options) { return moult_vm_list(vm_, &options, &kept.op); });
}

// Nobody wants it, and it is time to ask what becomes of it.
void Keeper::Rest(Kept& kept) {
  if (Clock::now() >= kept.looked + kLookEvery) return Look(kept);
  moult_policy_decision decision = MOULT_INIT(decision);
  if (!Ask(kept, kept.frozen ? MOULT_FUNCTION_FROZEN : MOULT_FUNCTION_IDLE, &decision)) return;
  const bool freezes = decision.end == 0 && decision.freeze != 0 && !kept.frozen;
  if (freezes) {
    return Start(kept, Step::kFreeze, [&](const moult_op_options& options) { return moult_vm_freeze(vm_, kept.function, &options, &kept.op); });
  }
  // What it decides of is what the function had when it was looked at last.
  const bool looks = decision.end != 0 || (kept.frozen && Moves(decision));
  if (!kept.measured && (looks || kept.frozen)) {
    moult_pages_options pages = MOULT_INIT(pages);
    pages.function = kept.function;
    return Start(kept, Step::kMeasure, [&](const moult_op_options& options) { return moult_vm_pages(vm_, &pages, &options, &kept.op); });
  }
  if (decision.end != 0) {
    return Start(kept, Step::kEnd, [&](const moult_op_options& options) { return moult_vm_kill(vm_, kept.function, &options, &kept.op); });
  }
  kept.trouble = absl::OkStatus();
  kept.wake = std::min(After(Clock::now(), std::max(decision.wake_after_us, kLeastWaitUs)), kept.looked + kLookEvery);
  kept.decision = decision;
  kept.moving = kept.frozen && Moves(decision);
  kept.next_in_order = 0;
  if (kept.moving) OffloadNext(kept);
}

void Keeper::OffloadNext(Kept& kept) {
  for (; kept.next_in_order < kOffloadOrder.size(); ++kept.next_in_order) {
    const uint32_t segment = kOffloadOrder[kept.next_in_order];
    const uint64_t most = kept.decision.offload[segment] & ~kPageMask;
    if (most == 0) continue;
    moult_offload_options offload = MOULT_INIT(offload);
    offload.function = kept.function;
    offload.segments = 1u << segment;
    offload.most_bytes = most;
    return Start(kept, Step::kOffload, [&](const moult_op_options& options) { return moult_vm_offload(vm_, &offload, &options, &kept.op); });
  }
  kept.moving = false;
}

// A request waits for one that stands still.
void Keeper::Serve(Kept& kept) {
  moult_policy_decision decision = MOULT_INIT(decision);
  // With a policy that has no answer it must run all the same.
  if (!Ask(kept, MOULT_FUNCTION_REQUESTED, &decision)) decision.recall = MOULT_RECALL_FAULTS;
  const uint64_t out = kept.offloaded[0] + kept.offloaded[1] + kept.offloaded[2];
  if (out == 0 || !kept.recalls) {
    return Start(kept, Step::kThaw, [&](const moult_op_options& options) { return moult_vm_thaw(vm_, kept.function, &options, &kept.op); });
  }
  moult_recall_options recall = MOULT_INIT(recall);
  recall.function = kept.function;
  recall.prefetch = PrefetchOf(decision.recall);
  Start(kept, Step::kRecall, [&](const moult_op_options& options) { return moult_vm_recall(vm_, &recall, &options, &kept.op); });
}

template <typename StartOp>
void Keeper::Start(Kept& kept, Step step, StartOp start) {
  moult_op_options options = MOULT_INIT(options);
  options.user = &kept;
  options.done = [](void* user, moult_op*) {
    auto* done = static_cast<Kept*>(user);
    done->keeper->Done(*done);
  };
  kept.step = step;
  kept.cancelled = false;
  if (start(options) < 0) {
    kept.op = nullptr;
    Failed(kept, LastError());
  }
}

void Keeper::Done(Kept& kept) {
  Json result;
  const absl::Status outcome = Outcome(kept.op, &result);
  hooks_.free(std::exchange(kept.op, nullptr));
  const uint64_t function = kept.function;
  if (outcome.ok()) {
    Succeeded(kept, result);
  } else {
    Failed(kept, outcome);
  }
  if (kept.ended || absl::IsNotFound(outcome)) {
    const bool by_us = kept.step == Step::kEnd && outcome.ok();
    Log(2, absl::StrCat("policy ", kept.spec, ": function ", function, by_us ? " was idle for long, and was ended" : " is no more"));
    Forget(function, absl::OkStatus());
    return;
  }
  Go(kept);
  Sweep();
}

void Keeper::Succeeded(Kept& kept, const Json& result) {
  switch (kept.step) {
    case Step::kFreeze:
      Count(kept, &Counts::freezes);
      kept.frozen = true;
      kept.measured = false;
      break;
    case Step::kMeasure:
      kept.measured = !IsAsked(kept);
      for (const Json& one : result.value("functions", Json::array())) {
        if (Number(one, "id") != kept.function) continue;
        const Json segments = one.value("segments", Json::object());
        for (size_t i = 0; i < kSegmentNames.size(); ++i) {
          const Json segment = segments.value(kSegmentNames[i], Json::object());
          kept.offloaded[i] = Number(segment, "offloaded_bytes");
          kept.resident[i] = std::max(Number(segment, "bytes"), kept.offloaded[i]) - kept.offloaded[i];
        }
      }
      break;
    case Step::kOffload: {
      const uint32_t segment = kOffloadOrder[kept.next_in_order++];
      const uint64_t moved = Number(result, "offloaded_bytes") + Number(result, "zero_bytes");
      // What did not move now will not the next time.
      const bool all = moved >= std::min(kept.resident[segment], kept.decision.offload[segment] & ~kPageMask);
      kept.resident[segment] = all ? kept.resident[segment] - std::min(kept.resident[segment], moved) : 0;
      kept.offloaded[segment] += moved;
      Count(kept, &Counts::offloads);
      Count(kept, &Counts::offloaded_bytes, moved);
      break;
    }
    case Step::kRecall:
    case Step::kThaw:
      Count(kept, kept.step == Step::kRecall ? &Counts::recalls : &Counts::thaws);
      kept.frozen = false;
      kept.recalls = true;
      kept.tries = 0;
      // What is out comes back unseen as it is touched; what the next look finds is what counts.
      kept.measured = false;
      break;
    case Step::kEnd:
      Count(kept, &Counts::ends);
      kept.ended = true;
      break;
    case Step::kLook: {
      const Json functions = result.value("functions", Json::array());
      const auto found = std::find_if(functions.begin(), functions.end(), [&](const Json& one) { return Number(one, "id") == kept.function; });
      const std::string state = found == functions.end() ? "" : found->value("state", "");
      kept.ended = state.empty() || state == "ended";
      if (kept.looked == Clock::time_point{}) kept.frozen = state == "frozen";
      kept.looked = Clock::now();
      kept.look = false;
      break;
    }
  }
}

void Keeper::Failed(Kept& kept, const absl::Status& status) {
  kept.moving = kept.measured = false;
  // One that was to stand still may do so, whatever the answer was.
  if (kept.step == Step::kFreeze || kept.step == Step::kOffload) kept.frozen = true;
  if (kept.cancelled) {
    kept.wake = Clock::now();
    return;
  }
  Count(kept, &Counts::failures);
  // Without its pages it runs all the same, and waits at those that the pool does not give.
  if (kept.step == Step::kRecall) kept.recalls = false;
  kept.look = kept.step != Step::kLook;
  const Clock::time_point now = Clock::now();
  const bool runs = IsAsked(kept) || kept.leaving;
  const int doublings = std::min(kept.tries++, 10);
  kept.wake = runs ? now + std::min(kFirstWait * (1 << doublings), kLongestWait) : now + kAfterTrouble;
  if (kept.leaving && kept.tries >= kMostTriesToLeave) {
    kept.frozen = kept.look = false;
    const std::string why = absl::StrCat("policy ", kept.spec, ": function ", kept.function, " could not be let run, and is left as it is: ", status.message());
    kept.not_let_run = absl::Status(status.code(), why);
    Log(1, why);
    return;
  }
  if (kept.step != Step::kLook || kept.trouble.ok()) kept.trouble = status;
  if (now < kept.told + kBetweenMessages) return;
  kept.told = now;
  Log(1, absl::StrCat("policy ", kept.spec, ": function ", kept.function, ": ", status.message()));
}

void Keeper::Count(Kept& kept, uint64_t Counts::*what, uint64_t by) {
  kept.counts.*what += by;
  totals_.*what += by;
}

}  // namespace moult::control
