// SPDX-License-Identifier: Apache-2.0
//
// The end of a function whose pages go back to the host. Order is everything: the pages are discarded while
// the frozen function still owns them, so that nobody else can be using them; only then is it killed.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "session/ops.h"

namespace moult::host::ops {
namespace {

// Between two looks at the connection: an agent that has gone may let the function go on, and then its pages
// can become somebody else's.
constexpr size_t kRangesPerLook = 64;
constexpr uint64_t kBytesPerLook = 16 << 20;
constexpr std::chrono::microseconds kStep(2000);
// For the kill after a lost connection, beyond the operation's own deadline.
constexpr std::chrono::seconds kRecovery(10);
constexpr std::chrono::milliseconds kRetry(20);

absl::Status CheckRanges(Vm* vm, const rpc::DetachReportT& report) {
  for (const rpc::GpaRun& run : report.exclusive) {
    const GuestRange range{GuestPhys(run.gpa()), run.length()};
    // Outside of RAM also means: in no window.
    const auto memory = vm->memory().Translate(range);
    if (!memory.ok()) {
      return absl::DataLossError(absl::StrCat("the agent reports pages that are not the guest's RAM: ",
                                              memory.status().message(), "; nothing was discarded"));
    }
  }
  return absl::OkStatus();
}

// Whole ranges, or a part of a long one.
struct Progress {
  size_t next = 0;
  uint64_t done_of_next = 0;
  uint64_t zeroed = 0;
};

absl::Status DiscardSome(Vm* vm, Op* op, const rpc::DetachReportT& report, Progress* progress) {
  uint64_t bytes = 0;
  for (size_t i = 0; i < kRangesPerLook && bytes < kBytesPerLook; ++i) {
    if (progress->next == report.exclusive.size()) break;
    const rpc::GpaRun& run = report.exclusive[progress->next];
    const uint64_t length = std::min(run.length() - progress->done_of_next, kBytesPerLook);
    const GuestRange range{GuestPhys(run.gpa() + progress->done_of_next), length};
    MOULT_RETURN_IF_ERROR(vm->memory().Discard(range, &progress->zeroed));
    bytes += length;
    op->result().discarded_bytes += length;
    progress->done_of_next += length;
    if (progress->done_of_next == run.length()) {
      ++progress->next;
      progress->done_of_next = 0;
    }
  }
  return absl::OkStatus();
}

Task<absl::Status> DiscardAll(Vm* vm, Op* op, Connection* connection, const rpc::DetachReportT* report) {
  Progress progress;
  auto step_end = Clock::now() + kStep;
  while (progress.next < report->exclusive.size()) {
    if (!connection->IsQuiet()) {
      connection->Break();
      co_return absl::UnavailableError("the agent closed the connection while pages were discarded");
    }
    if (Clock::now() >= op->strand()->deadline()) {
      co_return absl::DeadlineExceededError("the pages could not be discarded in time");
    }
    MOULT_CO_RETURN_IF_ERROR(DiscardSome(vm, op, *report, &progress));
    if (Clock::now() < step_end) continue;
    MOULT_CO_RETURN_IF_ERROR(co_await op->strand()->Yield());
    step_end = Clock::now() + kStep;
  }
  op->result().json["counters"]["ranges"] = report->exclusive.size();
  op->result().json["counters"]["zeroed_bytes"] = progress.zeroed;
  op->EndPhase("discard");
  co_return absl::OkStatus();
}

// One attempt: freeze, discard, end. From the first discard on `*begun` is true and there is no way back.
Task<absl::Status> TryDetach(Vm* vm, Op* op, Connection* connection, uint64_t function, bool* begun) {
  rpc::DetachT detach;
  detach.function = function;
  auto report =
      co_await connection->Call<rpc::DetachReportT>(op->strand(), std::move(detach), rpc::kMaxResponse);
  if (!report.ok()) co_return report.status();
  connection->Break();  // Until DetachEnd was answered nobody else may use it.
  op->AddAgentPhases(report->phases);
  op->EndPhase("await_report");
  absl::Status ranges = CheckRanges(vm, *report);
  if (!ranges.ok()) co_return ranges;  // Closes the connection: the agent thaws the function.

  *begun = true;
  op->strand()->set_shielded(true);
  MOULT_CO_RETURN_IF_ERROR(co_await DiscardAll(vm, op, connection, &*report));
  rpc::DetachEndT end;
  end.commit = true;
  auto done = co_await connection->Call<rpc::DoneT>(op->strand(), std::move(end));
  if (!done.ok()) co_return done.status();
  op->AddAgentPhases(done->phases);
  op->EndPhase("await_end");
  co_return absl::OkStatus();
}

// What an agent says of a function whose detach was interrupted.
enum class Fate { kLives, kDetached, kEnded };

Task<absl::StatusOr<Fate>> AskFate(Op* op, Connection* connection, uint64_t function) {
  rpc::ListT list;
  auto reply = co_await connection->Call<rpc::ListReplyT>(op->strand(), std::move(list), rpc::kMaxResponse);
  if (!reply.ok()) co_return reply.status();
  for (const auto& info : reply->functions) {
    if (info->id != function) continue;
    if (info->state != rpc::FunctionState::Ended) co_return Fate::kLives;
    co_return info->end_reason == rpc::kEndReasonDetached ? Fate::kDetached : Fate::kEnded;
  }
  co_return Fate::kEnded;
}

// The function has lost pages, perhaps not all, and nobody said that it has ended. Where it lives yet, the
// whole detach is done again: the guest's kernel must not get what was not discarded. OK: that went well, or
// the agent says that the first one did. kFailedPrecondition: it is too late.
Task<absl::Status> DetachAgain(Vm* vm, Op* op, uint64_t function, Clock::time_point deadline) {
  absl::Status last = absl::UnavailableError("only one connection was given");
  while (!vm->single_connection() && Clock::now() < deadline) {
    op->strand()->set_deadline(deadline);
    bool begun = false;
    auto lease = co_await vm->Acquire(op, /*spared=*/function);
    last = lease.status();
    if (lease.ok()) last = co_await TryDetach(vm, op, &**lease, function, &begun);
    if (last.ok() || absl::IsAborted(last)) co_return last;
    if (begun) (void)(*lease)->TakeFd();  // Closed at once: that is what makes the agent give up.
    if (begun) co_return absl::FailedPreconditionError(absl::StrCat("again: ", last.message()));
    if (lease.ok() && !(*lease)->broken()) {
      const auto fate = co_await AskFate(op, &**lease, function);
      if (fate.ok() && *fate == Fate::kDetached) co_return absl::OkStatus();
      if (fate.ok() && *fate == Fate::kEnded) co_return absl::FailedPreconditionError(last.message());
    }
    // An agent that starts again, or is busy undoing, needs a moment.
    op->strand()->set_deadline(std::min(deadline, Clock::now() + kRetry));
    (void)co_await op->strand()->ForWake("agent");
  }
  co_return last;
}

// Whatever it still has, it must not run on.
Task<absl::Status> KillInstead(Vm* vm, Op* op, uint64_t function, Clock::time_point deadline,
                               absl::Status cause) {
  std::string last = "only one connection was given";
  while (!vm->single_connection() && vm->IsHalfDetached(function) && Clock::now() < deadline) {
    op->strand()->set_deadline(deadline);
    const auto lease = co_await vm->Acquire(op);  // Kills it.
    if (absl::IsAborted(lease.status())) co_return lease.status();
    if (!vm->IsHalfDetached(function)) break;
    last = lease.ok() ? "the agent refused to kill it" : std::string(lease.status().message());
    op->strand()->set_deadline(std::min(deadline, Clock::now() + kRetry));
    (void)co_await op->strand()->ForWake("agent");
  }
  op->EndPhase("recover");
  op->result().detached = !vm->IsHalfDetached(function);
  op->result().json["detached"] = op->result().detached;
  if (op->result().detached) {
    co_return absl::DataLossError(absl::StrCat(
        "function ", function, " has ended, but not all of its memory was discarded (", cause.message(),
        "): the rest is in free memory of the guest's kernel; restart the VM where that matters"));
  }
  co_return absl::DataLossError(absl::StrCat(
      "function ", function, ": its pages were discarded, but its end is not confirmed (", cause.message(),
      "; then: ", last, "); it is killed when the agent is back, or restart the VM"));
}

Task<absl::Status> Recover(Vm* vm, Op* op, Connection* connection, uint64_t function, absl::Status cause) {
  (void)connection->TakeFd();  // An agent that still waits on it gives up.
  vm->AddHalfDetached(function);
  if (absl::IsAborted(cause)) co_return cause;  // The guest was reset: there is no function any more.
  op->result().json["notes"].push_back(absl::StrCat("detached again, because: ", cause.message()));
  const auto deadline = std::max(op->strand()->deadline(), Clock::now() + kRecovery);
  const auto half = Clock::now() + (deadline - Clock::now()) / 2;
  absl::Status again = co_await DetachAgain(vm, op, function, half);
  if (again.ok()) op->EndPhase("recover");
  if (again.ok() || absl::IsAborted(again)) co_return again;
  co_return co_await KillInstead(vm, op, function, deadline,
                                 absl::UnavailableError(absl::StrCat(cause.message(), "; ", again.message())));
}

}  // namespace

Task<absl::Status> DetachOn(Vm* vm, Op* op, Connection* connection, uint64_t function) {
  bool begun = false;
  absl::Status status = co_await TryDetach(vm, op, connection, function, &begun);
  if (!status.ok() && begun) status = co_await Recover(vm, op, connection, function, status);
  op->strand()->set_shielded(false);
  op->result().json["discarded_bytes"] = op->result().discarded_bytes;
  if (!status.ok()) co_return status;
  vm->FunctionGone(function);
  op->result().detached = true;
  op->result().json["detached"] = true;
  co_return absl::OkStatus();
}

Task<absl::Status> ReleaseIdle(Vm* vm, Op* op, Connection* connection) {
  for (Window& window : vm->windows()) {
    const std::vector<Window::Extent> idle = window.Idle();
    for (const auto& [offset, length] : idle) {
      rpc::ReleaseT release;
      release.window = window.config().number;
      release.offset = offset;
      release.length = length;
      auto done = co_await connection->Call<rpc::DoneT>(op->strand(), std::move(release));
      if (connection->broken()) co_return done.status();
      if (done.ok() || absl::IsNotFound(done.status())) {
        window.Free(offset);
      } else {
        op->result().json["notes"].push_back(absl::StrCat("a template stays mapped: ", done.status().message()));
      }
    }
  }
  op->EndPhase("release");
  co_return absl::OkStatus();
}

Task<absl::Status> Detach(Vm* vm, Op* op, uint64_t function) {
  op->result().function = function;
  op->result().json["detached"] = false;
  MOULT_CO_ASSIGN_OR_RETURN(Lease lease, co_await vm->Acquire(op));
  MOULT_CO_RETURN_IF_ERROR(co_await DetachOn(vm, op, &*lease, function));
  if (!lease->broken()) (void)co_await ReleaseIdle(vm, op, &*lease);
  co_return absl::OkStatus();
}

}  // namespace moult::host::ops
