// SPDX-License-Identifier: Apache-2.0
//
// Freeze and Thaw.
#include "rpc/worker.h"

namespace moult::agent {
namespace {

absl::Status NeedsCgroup() {
  return absl::FailedPreconditionError(
      "this agent goes without cgroups (require_cgroup is false), so it has no freezer; mount cgroup v2 and "
      "restart it");
}

absl::Status Changed(Worker& worker, rpc::FunctionState state) {
  worker.function->info.state = state;
  worker.Tell({.state = state, .done = true});
  return worker.RespondFunction({});
}

}  // namespace

absl::Status DoFreeze(Worker& worker) {
  if (worker.function->cgroup == nullptr) return NeedsCgroup();
  MOULT_RETURN_IF_ERROR(
      worker.function->cgroup->Freeze(std::min(worker.deadline, Clock::now() + kFreezeTime)));
  worker.phases.End("freeze");
  return Changed(worker, rpc::FunctionState::Frozen);
}

absl::Status DoThaw(Worker& worker) {
  if (worker.function->cgroup == nullptr) return NeedsCgroup();
  MOULT_RETURN_IF_ERROR(worker.function->cgroup->Thaw());
  worker.phases.End("thaw");
  return Changed(worker, rpc::FunctionState::Running);
}

}  // namespace moult::agent
