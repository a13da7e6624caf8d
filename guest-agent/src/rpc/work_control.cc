// SPDX-License-Identifier: Apache-2.0
//
// Freeze and Thaw.
#include "ledger/accesses.h"
#include "rpc/worker.h"

namespace moult::agent {
namespace {

absl::Status NeedsCgroup() {
  return absl::FailedPreconditionError(
      "this agent goes without cgroups (require_cgroup is false), so it has no freezer; mount cgroup v2 and "
      "restart it");
}

absl::Status Changed(Worker& worker, rpc::FunctionState state, std::vector<std::string> notes) {
  worker.function->info.state = state;
  worker.Tell({.state = state, .done = true});
  return worker.RespondFunction(std::move(notes));
}

// What it touches from now on is what it needs. It runs, or stands still, as well without: a note says so.
std::vector<std::string> ForgetTouched(Worker& worker) {
  std::vector<std::string> notes;
  if (const absl::Status forgotten = Accesses().Forget(*worker.function); !forgotten.ok())
    notes.push_back(absl::StrCat("which pages are cold is not known: ", forgotten.message()));
  worker.phases.End("forget");
  return notes;
}

}  // namespace

absl::Status DoFreeze(Worker& worker) {
  if (worker.function->cgroup == nullptr) return NeedsCgroup();
  MOULT_RETURN_IF_ERROR(
      worker.function->cgroup->Freeze(std::min(worker.deadline, Clock::now() + kFreezeTime)));
  worker.phases.End("freeze");
  std::vector<std::string> notes;
  if (worker.request.body.AsFreeze()->forget) notes = ForgetTouched(worker);
  return Changed(worker, rpc::FunctionState::Frozen, std::move(notes));
}

absl::Status DoThaw(Worker& worker) {
  if (worker.function->cgroup == nullptr) return NeedsCgroup();
  // While it stands still it touches nothing.
  std::vector<std::string> notes = ForgetTouched(worker);
  MOULT_RETURN_IF_ERROR(worker.function->cgroup->Thaw());
  worker.phases.End("thaw");
  return Changed(worker, rpc::FunctionState::Running, std::move(notes));
}

}  // namespace moult::agent
