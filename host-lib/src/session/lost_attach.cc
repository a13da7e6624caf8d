// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "moult/base/status.h"
#include "session/ops.h"

namespace moult::host::ops {
namespace {

constexpr std::chrono::milliseconds kBetweenLooks{50};
constexpr std::chrono::seconds kOneLook{2};
// For the signal to get from the agent to every thread of the function, once the connection is closed.
constexpr std::chrono::milliseconds kSignalTime{1500};

Task<absl::StatusOr<bool>> IsAttaching(Vm* vm, Op* op, const std::set<std::string>* templates) {
  MOULT_CO_ASSIGN_OR_RETURN(Lease lease, co_await vm->Acquire(op));
  MOULT_CO_ASSIGN_OR_RETURN(const rpc::ListReplyT list, co_await ListFunctions(op, &*lease));
  co_return std::any_of(list.functions.begin(), list.functions.end(), [&](const auto& function) {
    const bool unready =
        function->state == rpc::FunctionState::Starting || function->state == rpc::FunctionState::Attaching;
    return unready && templates->contains(function->template_name);
  });
}

}  // namespace

// The connection of each such attach is closed, so the agent ends its function, which cannot end while one of
// its threads waits for a page. When the agent says that there is none any more, or is heard after a time in
// which the signal has come to it, the function runs no more than the instruction that waits, and gets zeros.
Task<absl::Status> EndLostAttach(Vm* vm, Op* op, std::set<std::string> templates) {
  const Clock::time_point end = op->strand()->deadline();
  const Clock::time_point signalled = Clock::now() + kSignalTime;
  absl::Status last;
  while (Clock::now() < end) {
    op->strand()->set_deadline(std::min(end, Clock::now() + kOneLook));
    const auto attaching = co_await IsAttaching(vm, op, &templates);
    last = attaching.status();
    if (absl::IsAborted(last) || absl::IsCancelled(last)) co_return last;
    if (attaching.ok() && (!*attaching || Clock::now() >= signalled)) {
      co_return vm->remote_pager()->Resolve(0, Resolution::kZero);
    }
    op->strand()->set_deadline(std::min(end, Clock::now() + kBetweenLooks));
    const absl::Status waited = co_await op->strand()->ForWake("agent");
    if (absl::IsAborted(waited)) co_return waited;
  }
  if (vm->remote_pager()->Resolve(0, Resolution::kPoison).ok()) co_return last;
  // The guest cannot be told, and waits for ever: what is left is the embedder's.
  if (vm->config().page_lost) {
    vm->config().page_lost(0, GuestPhys(0),
                           absl::DeadlineExceededError("the guest did not end the function in time"));
  }
  co_return last;
}

}  // namespace moult::host::ops
