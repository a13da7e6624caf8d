// SPDX-License-Identifier: Apache-2.0
//
// Functions that the host ends while pages of them are out. The guest's kernel may use their page frames again before the host
// has dropped what is out of them, and no CPU of it is to wait then for a pool that does not answer.
#include <algorithm>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "session/ops.h"

namespace moult::host::ops {
namespace {

// One of its threads may wait for a page itself.
constexpr std::chrono::seconds kStandsWithin(2);
// To find out what became of it, beyond the operation's own deadline.
constexpr std::chrono::seconds kLookTime(5);

bool HasPagesOut(Vm* vm, uint64_t function) {
  if (vm->pager() == nullptr || !vm->offloaded().contains(function)) return false;
  const PagerCounts counts = vm->pager()->owner_stats(function);
  // Whose pages are lost has a thread that waits, and does not come to stand.
  return counts.offloaded_bytes != 0 && counts.lost_pages == 0 && vm->LostBecause(function).empty();
}

// What it was before.
Task<absl::StatusOr<rpc::FunctionState>> StandStill(Vm* vm, Op* op, uint64_t function) {
  MOULT_CO_ASSIGN_OR_RETURN(Lease lease, co_await vm->Acquire(op));
  MOULT_CO_ASSIGN_OR_RETURN(const rpc::ListReplyT list, co_await ListFunctions(op, &*lease));
  MOULT_CO_ASSIGN_OR_RETURN(const rpc::FunctionState state, StateOf(list, function));
  if (state != rpc::FunctionState::Running && state != rpc::FunctionState::Frozen)
    co_return absl::FailedPreconditionError("neither runs nor stands still");
  auto frozen = co_await lease->Call<rpc::FunctionReplyT>(op->strand(), Of<rpc::FreezeT>(function));
  if (!frozen.ok()) co_return frozen.status();
  co_return state;
}

// The agent's list tells whether it has ended, and the vm learns it.
Task<absl::StatusOr<rpc::FunctionState>> LookAgain(Vm* vm, Op* op, uint64_t function) {
  MOULT_CO_ASSIGN_OR_RETURN(Lease lease, co_await vm->Acquire(op));
  MOULT_CO_ASSIGN_OR_RETURN(const rpc::ListReplyT list, co_await ListFunctions(op, &*lease));
  vm->Reconcile(list);
  const auto state = StateOf(list, function);
  if (absl::IsNotFound(state.status())) co_return rpc::FunctionState::Ended;
  co_return state;
}

Task<absl::Status> LetRun(Vm* vm, Op* op, uint64_t function) {
  MOULT_CO_ASSIGN_OR_RETURN(Lease lease, co_await vm->Acquire(op));
  co_return (co_await lease->Call<rpc::FunctionReplyT>(op->strand(), Of<rpc::ThawT>(function))).status();
}

}  // namespace

Task<absl::StatusOr<Doom>> Condemn(Vm* vm, Op* op, uint64_t function) {
  Doom doom;
  const auto deadline = op->strand()->deadline();
  // Over the only connection nobody could say afterwards what became of it. What ends it needs most of the time.
  if (!HasPagesOut(vm, function) || vm->single_connection() || deadline < Clock::now() + 2 * kStandsWithin) co_return doom;
  op->strand()->set_deadline(std::min(deadline, Clock::now() + kStandsWithin));
  const auto before = co_await StandStill(vm, op, function);
  op->strand()->set_deadline(deadline);
  if (absl::IsAborted(before.status()) || absl::IsCancelled(before.status())) co_return before.status();
  op->EndPhase("stand_still");
  if (!before.ok()) {
    doom.clashes = true;
    vm->Log(2, absl::StrCat("function ", function, " is ended while it does not stand still: ", before.status().message()));
    co_return doom;
  }
  vm->pager()->End(function);
  doom.begun = true;
  doom.thaws = *before != rpc::FunctionState::Frozen;
  co_return doom;
}

Task<absl::Status> Spare(Vm* vm, Op* op, uint64_t function, Doom doom, absl::Status cause) {
  const bool out = vm->pager() != nullptr && vm->offloaded().contains(function);
  // It has ended by itself, perhaps, where the agent refuses to end it.
  const bool refused = absl::IsFailedPrecondition(cause) || absl::IsNotFound(cause);
  if (absl::IsAborted(cause) || !out || vm->single_connection() || !(doom.begun || refused)) co_return cause;
  op->strand()->set_shielded(true);
  const absl::Cleanup unshield = [op] { op->strand()->set_shielded(false); };
  op->strand()->set_deadline(std::max(op->strand()->deadline(), Clock::now() + kLookTime));
  const auto state = co_await LookAgain(vm, op, function);
  if (!doom.begun || (state.ok() && *state == rpc::FunctionState::Ended)) co_return cause;
  absl::Status status = state.status();
  if (status.ok()) status = MayLive(vm, function);
  if (status.ok() && doom.thaws) status = co_await LetRun(vm, op, function);
  if (status.ok()) co_return cause;
  co_return absl::Status(cause.code(), absl::StrCat(cause.message(), "; function ", function, " stands still: ", status.message(),
                                                    "; end it when the agent is well again"));
}

absl::Status MayLive(Vm* vm, uint64_t function) {
  if (vm->pager() == nullptr || vm->pager()->Revive(function)) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("function ", function, " was to be ended, and zeros were given for pages that the pool ",
                                          vm->config().pool->name(), " did not give: it must not run again; end it"));
}

}  // namespace moult::host::ops
