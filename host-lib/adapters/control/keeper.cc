// SPDX-License-Identifier: Apache-2.0
#include "keeper.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "host_memory.h"
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
constexpr std::array<const char*, MOULT_SEGMENTS> kSegmentNames = {"runtime", "init", "exec"};
// Exec first: it goes at once, and the rest only when nothing came meanwhile.
constexpr std::array<uint32_t, MOULT_SEGMENTS> kOffloadOrder = {MOULT_SEGMENT_EXEC, MOULT_SEGMENT_INIT, MOULT_SEGMENT_RUNTIME};

uint64_t MicrosOf(Keeper::Clock::time_point time) {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(time.time_since_epoch()).count());
}

int64_t MillisOf(Keeper::Clock::duration duration) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
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

struct Keeper::Kept {
  Kept(Keeper* with, uint64_t id) : keeper(with), function(id) {}
  Kept(const Kept&) = delete;
  Kept& operator=(const Kept&) = delete;
  ~Kept() {
    moult_op_free(op);
    moult_policy_close(policy);
    moult_intervals_free(intervals);
  }

  Keeper* const keeper;
  const uint64_t function;
  std::string spec;
  moult_policy* policy = nullptr;
  moult_intervals* intervals = nullptr;
  size_t requests = 0;  // under way
  Clock::time_point last_start = Clock::now();
  Clock::time_point last_end = last_start;
  Clock::time_point wake = last_start;  // when something is to be done: ask the policy, or try again to let it run
  bool frozen = true;     // may be
  bool measured = false;  // the two arrays are what it has now
  std::array<uint64_t, MOULT_SEGMENTS> resident{};
  std::array<uint64_t, MOULT_SEGMENTS> offloaded{};
  moult_policy_decision decision = MOULT_INIT(decision);  // is carried out while `moving`
  bool moving = false;
  size_t next_in_order = 0;  // in kOffloadOrder
  moult_op* op = nullptr;
  Step step = Step::kMeasure;  // what `op` is for
  bool cancelled = false;      // `op`, by us
  absl::Status trouble;
  Clock::time_point told{};    // when the log had a trouble last
  int tries = 0;               // to let it run, without success
  bool recalls = true;         // false: its pages could not be fetched ahead
  bool look = true;            // whether it lives, and stands still
  Clock::time_point looked{};  // when that was seen last
  bool ended = false;          // it does not live
  bool leaving = false;        // forgotten as soon as it runs and no operation is under way
};

Keeper::Keeper(moult_vm* vm, Hooks hooks) : vm_(vm), hooks_(std::move(hooks)) {}
Keeper::~Keeper() = default;

void Keeper::Log(int level, const std::string& message) const {
  if (hooks_.log) hooks_.log(level, message);
}

absl::Status Keeper::Set(uint64_t function, const std::string& spec) {
  const auto found = kept_.find(function);
  const bool known = found != kept_.end() && !found->second->leaving;
  if (spec == "off") {
    if (!known) return absl::NotFoundError(absl::StrCat("policy: function ", function, " has none"));
    Kept& leaves = *found->second;
    leaves.leaving = true;
    leaves.moving = false;
    leaves.tries = 0;
    leaves.wake = Clock::now();
    Cancel(leaves);
    Go(leaves);
    Sweep();
    return absl::OkStatus();
  }
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
  kept.last_end = kept.wake = Clock::now();
  Go(kept);
  return absl::OkStatus();
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
  std::erase_if(kept_, [](const auto& entry) { return entry.second->leaving && entry.second->op == nullptr && !entry.second->frozen; });
}

void Keeper::Begin(uint64_t function) {
  const auto found = kept_.find(function);
  if (found == kept_.end()) return;
  Kept& kept = *found->second;
  if (kept.requests++ > 0) return;
  const Clock::time_point now = Clock::now();
  moult_intervals_add(kept.intervals, MicrosOf(now) - MicrosOf(kept.last_end));
  kept.last_start = kept.wake = now;
  kept.measured = kept.moving = false;
  kept.tries = 0;
  if (kept.step == Step::kFreeze || kept.step == Step::kMeasure || kept.step == Step::kOffload) Cancel(kept);
  Go(kept);
}

void Keeper::End(uint64_t function) {
  const auto found = kept_.find(function);
  if (found == kept_.end() || found->second->requests == 0) return;
  Kept& kept = *found->second;
  if (--kept.requests > 0) return;
  kept.last_end = kept.wake = Clock::now();
  Go(kept);
}

Keeper::Clock::time_point Keeper::next() const {
  Clock::time_point next = Clock::time_point::max();
  for (const auto& [function, kept] : kept_) {
    if (kept->op != nullptr) continue;
    const bool runs = kept->requests > 0 || kept->leaving;
    if (!runs || kept->frozen) next = std::min(next, kept->wake);
  }
  return next;
}

void Keeper::Tick() {
  for (const auto& [function, kept] : kept_) Go(*kept);
  Sweep();
}

void Keeper::Go(Kept& kept) {
  if (kept.op != nullptr) return;  // its end comes back here
  const bool due = Clock::now() >= kept.wake;
  if (kept.look && due) {
    Look(kept);
  } else if (kept.requests > 0 || kept.leaving) {
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
    kept_.erase(function);
    return;
  }
  Go(kept);
  Sweep();
}

void Keeper::Succeeded(Kept& kept, const Json& result) {
  switch (kept.step) {
    case Step::kFreeze:
      kept.frozen = true;
      kept.measured = false;
      break;
    case Step::kMeasure:
      kept.measured = kept.requests == 0;
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
      break;
    }
    case Step::kRecall:
    case Step::kThaw:
      kept.frozen = false;
      kept.recalls = true;
      kept.tries = 0;
      // What is out comes back unseen as it is touched; what the next look finds is what counts.
      kept.measured = false;
      break;
    case Step::kEnd:
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
  // Without its pages it runs all the same, and waits at those that the pool does not give.
  if (kept.step == Step::kRecall) kept.recalls = false;
  kept.look = kept.step != Step::kLook;
  const Clock::time_point now = Clock::now();
  const bool runs = kept.requests > 0 || kept.leaving;
  const int doublings = std::min(kept.tries++, 10);
  kept.wake = runs ? now + std::min(kFirstWait * (1 << doublings), kLongestWait) : now + kAfterTrouble;
  if (kept.leaving && kept.tries >= kMostTriesToLeave) {
    kept.frozen = kept.look = false;
    Log(1, absl::StrCat("policy ", kept.spec, ": function ", kept.function, " could not be let run, and is left as it is: ", status.message()));
    return;
  }
  if (kept.step != Step::kLook || kept.trouble.ok()) kept.trouble = status;
  if (now < kept.told + kBetweenMessages) return;
  kept.told = now;
  Log(1, absl::StrCat("policy ", kept.spec, ": function ", kept.function, ": ", status.message()));
}

Json Keeper::Describe() const {
  Json list = Json::array();
  const Clock::time_point now = Clock::now();
  for (const auto& [function, kept] : kept_) {
    Json one{{"function", function},
             {"policy", kept->spec},
             {"state", kept->leaving ? "leaving" : kept->frozen ? "frozen" : kept->requests > 0 ? "running" : "idle"},
             {"requests", kept->requests},
             {"idle_ms", kept->requests > 0 ? 0 : MillisOf(now - kept->last_end)}};
    if (kept->requests == 0) one["next_ms"] = std::max<int64_t>(0, MillisOf(kept->wake - now));
    for (size_t i = 0; i < kSegmentNames.size(); ++i)
      one["segments"][kSegmentNames[i]] = {{"resident_bytes", kept->resident[i]}, {"offloaded_bytes", kept->offloaded[i]}};
    if (!kept->trouble.ok()) one["error"] = ErrorJson(kept->trouble);
    list.push_back(std::move(one));
  }
  return list;
}

}  // namespace moult::control
