// SPDX-License-Identifier: Apache-2.0
#include "session/op.h"

#include "absl/strings/str_cat.h"

namespace moult::host {
namespace {

uint64_t Micros(Clock::time_point from, Clock::time_point to) {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(to - from).count());
}

}  // namespace

void Op::EndPhase(const char* name) {
  const auto now = Clock::now();
  phases_.push_back({{"name", absl::StrCat("host.", name)}, {"us", Micros(phase_start_, now)}});
  phase_start_ = now;
}

void Op::AddAgentPhases(const std::vector<std::unique_ptr<rpc::PhaseT>>& phases) {
  for (const auto& phase : phases) {
    phases_.push_back({{"name", absl::StrCat("agent.", phase->name)}, {"us", phase->us}});
  }
}

void Op::Finish(absl::Status status) {
  // Work that runs uses what the coroutine owns.
  strand_->AwaitWork();
  task.reset();
  strand_.reset();
  total_us_ = Micros(start_, Clock::now());
  Json json = {{"op", verb_}, {"ok", status.ok()}, {"total_us", total_us_}};
  if (!status.ok()) {
    json["error"] = {{"code", absl::StatusCodeToString(status.code())},
                     {"message", std::string(status.message())}};
  }
  json.update(result_.json);
  json["phases"] = std::move(phases_);
  json_ = Dump(json);
  status_ = std::move(status);
}

}  // namespace moult::host
