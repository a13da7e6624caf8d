// SPDX-License-Identifier: Apache-2.0
#include "sweeper.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "methods.h"
#include "moult/pager.h"

namespace moult::control {
namespace {

constexpr std::chrono::milliseconds kFirstPause(500);
constexpr std::chrono::seconds kLongestPause(60);

}  // namespace

Sweeper::Clock::time_point Sweeper::next() const {
  const bool due = op_ == nullptr && vm_ != nullptr && moult_vm_unswept(vm_) > 0;
  return due ? wake_ : Clock::time_point::max();
}

void Sweeper::Tick() {
  if (op_ != nullptr || vm_ == nullptr) return;
  const size_t unswept = moult_vm_unswept(vm_);
  const bool more = unswept > std::exchange(known_, unswept);
  if (unswept == 0 || (!more && Clock::now() < wake_)) return;
  moult_op_options options = MOULT_INIT(options);
  options.user = this;
  options.done = [](void* user, moult_op*) { static_cast<Sweeper*>(user)->Done(); };
  if (moult_vm_sweep(vm_, &options, &op_) >= 0) return;
  op_ = nullptr;
  Failed(LastError());
}

void Sweeper::Done() {
  Json result;
  const absl::Status outcome = Outcome(op_, &result);
  hooks_.free(std::exchange(op_, nullptr));
  known_ = moult_vm_unswept(vm_);
  ++sweeps_;
  if (!outcome.ok()) return Failed(outcome);
  trouble_ = absl::OkStatus();
  pause_ = {};
  // What is left an offload or a recall is still at.
  wake_ = Clock::now() + kFirstPause;
  if (!std::exchange(told_, "").empty() && hooks_.log) hooks_.log(2, "the pool's room of functions that have ended is given back");
}

void Sweeper::Failed(const absl::Status& status) {
  ++failures_;
  trouble_ = status;
  pause_ = std::min<Clock::duration>(std::max<Clock::duration>(2 * pause_, kFirstPause), kLongestPause);
  wake_ = Clock::now() + pause_;
  const std::string message = absl::StrCat(status.message(), "; it is tried again");
  if (std::exchange(told_, message) != message && hooks_.log) hooks_.log(1, message);
}

Json Sweeper::Describe() const {
  Json sweep{{"functions", vm_ != nullptr ? moult_vm_unswept(vm_) : 0}, {"running", op_ != nullptr}, {"sweeps", sweeps_}, {"failures", failures_}};
  if (const Clock::time_point at = next(); at != Clock::time_point::max())
    sweep["next_ms"] = std::max<int64_t>(0, std::chrono::duration_cast<std::chrono::milliseconds>(at - Clock::now()).count());
  if (!trouble_.ok()) sweep["error"] = ErrorJson(trouble_);
  return sweep;
}

}  // namespace moult::control
