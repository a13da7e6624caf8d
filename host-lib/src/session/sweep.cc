// SPDX-License-Identifier: Apache-2.0
//
// The room in the pool that functions had which have ended. What of it the guest has freed since is dropped; the rest may be
// the kernel's, a pipe's, a neighbour's, and comes back, bit by bit: the thread that does it is others' as well, and the pool
// may take its time.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "session/ops.h"

namespace moult::host::ops {
namespace {

// How long others may wait for the thread, beyond one read of the pool.
constexpr std::chrono::milliseconds kSlice(50);
// Between two tries of what the pool does not give.
constexpr std::chrono::milliseconds kPause(50);

uint64_t OutBytes(const Vm& vm, uint64_t function) {
  const PagerCounts counts = vm.pager()->owner_stats(function);
  return counts.offloaded_bytes + counts.zero_bytes;
}

// What is free now was written before it comes to be anybody's, or nobody cares what is in it. A page that is on its way
// stays, and comes back with the rest.
void Drop(Pager& pager, const PageLedger& ledger, uint64_t function) {
  pager.DropUnwanted(function, [&](GuestPhys gpa) {
    const rpc::PageRun* const run = ledger.Find(gpa);
    return run != nullptr && run->page_class() == rpc::PageClass::Free;
  });
}

Task<absl::Status> BringRest(Vm* vm, Op* op, uint64_t function) {
  uint64_t left = OutBytes(*vm, function);
  auto progress = Clock::now();
  for (;;) {
    bool all = false;
    std::function<absl::Status()> work = [&]() -> absl::Status {
      MOULT_ASSIGN_OR_RETURN(all, vm->pager()->RecallSome(function, Clock::now() + kSlice));
      return absl::OkStatus();
    };
    const absl::Status tried = co_await op->strand()->Work(std::move(work));
    if (all) co_return absl::OkStatus();
    const auto now = Clock::now();
    const uint64_t out = OutBytes(*vm, function);
    if (out < left) progress = now;
    left = out;
    if (!tried.ok() && !absl::IsUnavailable(tried) && !absl::IsDataLoss(tried)) co_return tried;
    if (absl::IsDataLoss(tried) && now >= progress + vm->config().read_deadline) {
      // All else is here. As lost pages of a function that has been ended.
      vm->pager()->DropUnwanted(function, [](GuestPhys) { return true; });
      vm->Log(1, absl::StrCat("function ", function, ", which has ended: ", left, " bytes of it in the pool ", vm->config().pool->name(),
                              " are damaged, and zeros from now on: ", tried.message()));
      co_return absl::OkStatus();
    }
    if (now >= op->strand()->deadline() || now >= progress + vm->config().read_deadline)
      co_return absl::DeadlineExceededError(tried.ok() ? "others have its pages for long" : tried.message());
    if (!tried.ok()) MOULT_CO_RETURN_IF_ERROR(co_await Pause(op, kPause, "pool"));
  }
}

Task<absl::Status> SweepOne(Vm* vm, Op* op, uint64_t function) {
  const uint64_t boot = vm->boots();
  const absl::Status back = co_await BringRest(vm, op, function);
  // Another may have its number.
  if (vm->boots() != boot) co_return absl::AbortedError("the guest has booted again: its functions are gone");
  if (back.ok() && vm->pager()->DropOwner(function)) {
    vm->offloaded().erase(function);
    vm->unswept().erase(function);
    co_return absl::OkStatus();
  }
  vm->unswept()[function] = false;  // the next time more of it may be free
  co_return Annotate(back.ok() ? absl::UnavailableError("another call has some of it") : back,
                     absl::StrCat("room of function ", function, ", which has ended, in the pool ", vm->config().pool->name(), ": ",
                                  vm->pager()->owner_stats(function).offloaded_bytes, " bytes are held"));
}

}  // namespace

Task<absl::Status> DropFreed(Vm* vm, Op* op, Connection* connection) {
  std::vector<uint64_t> functions;
  for (const auto& [function, dropped] : vm->unswept()) {
    if (!dropped && !vm->moving().contains(function)) functions.push_back(function);
  }
  if (functions.empty()) co_return absl::OkStatus();
  MOULT_CO_ASSIGN_OR_RETURN(const PageLedger ledger, co_await FetchLedger(vm, op, connection, 0));
  std::function<absl::Status()> work = [&] {
    for (const uint64_t function : functions) Drop(*vm->pager(), ledger, function);
    return absl::OkStatus();
  };
  MOULT_CO_RETURN_IF_ERROR(co_await op->strand()->Work(std::move(work)));
  for (const uint64_t function : functions) {
    if (const auto known = vm->unswept().find(function); known != vm->unswept().end()) known->second = true;
  }
  op->EndPhase("drop");
  co_return absl::OkStatus();
}

Task<absl::Status> Sweep(Vm* vm, Op* op) {
  if (vm->unswept().empty()) co_return absl::OkStatus();
  {
    // Given back before the pool is waited for.
    MOULT_CO_ASSIGN_OR_RETURN(Lease lease, co_await vm->Acquire(op));
    MOULT_CO_RETURN_IF_ERROR(co_await DropFreed(vm, op, &*lease));
  }
  std::vector<uint64_t> functions;
  for (const auto& [function, dropped] : vm->unswept()) {
    if (dropped && !vm->moving().contains(function)) functions.push_back(function);
  }
  absl::Status first;
  Json swept = Json::array();
  for (const uint64_t function : functions) {
    const absl::Status status = co_await SweepOne(vm, op, function);
    if (status.ok()) swept.push_back(function);
    first.Update(status);  // one that cannot be swept now keeps no other's room
    if (absl::IsCancelled(status) || absl::IsAborted(status)) break;
  }
  op->EndPhase("recall");
  op->result().json["swept"] = std::move(swept);
  co_return first;
}

}  // namespace moult::host::ops
