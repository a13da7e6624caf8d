// SPDX-License-Identifier: Apache-2.0
//
// The end of a function, and what it had in memory. The agent ends it first and holds its page frames, so
// that nobody else can have them; then they are discarded, while another function may be running already.
// What is not discarded, for whatever reason, the guest fills with zeros.
#include <algorithm>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "memory/cut_runs.h"
#include "moult/base/status.h"
#include "moult/protocol/frame.h"
#include "session/ops.h"

namespace moult::host::ops {
namespace {

// Between two looks at the connection: an agent that has gone holds nothing any more.
constexpr size_t kRangesPerLook = 64;
constexpr uint64_t kBytesPerLook = 16 << 20;
constexpr std::chrono::microseconds kStep(2000);
// For pages that are on their way to or from the pool when all others have been discarded.
constexpr std::chrono::seconds kOnTheirWayTime(3);
constexpr std::chrono::milliseconds kOnTheirWayPause(5);
// To find out what became of the function, beyond the operation's own deadline.
constexpr std::chrono::seconds kRecovery(10);
constexpr std::chrono::milliseconds kRetry(20);
constexpr uint32_t kReclaimMs = 60000;
constexpr std::chrono::milliseconds kReclaimAfter(150);

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
  std::vector<GuestRange> ranges;
  size_t next = 0;
  uint64_t done_of_next = 0;
  uint64_t zeroed = 0;
  std::vector<GuestRange> busy;  // pages that were on their way
  bool done() const { return next == ranges.size(); }
};

uint64_t Address(GuestPhys gpa) { return static_cast<uint64_t>(gpa); }

absl::Status DiscardRange(Vm* vm, Op* op, GuestRange range, Progress* progress) {
  std::vector<GuestPhys> busy;
  // What is in the pool is not fetched for that.
  if (vm->pager() != nullptr) {
    MOULT_ASSIGN_OR_RETURN(busy, vm->pager()->Drop(range));
  }
  uint64_t at = Address(range.start);
  const auto discard_to = [&](uint64_t end) -> absl::Status {
    if (end == at) return absl::OkStatus();
    MOULT_RETURN_IF_ERROR(vm->memory().Discard({GuestPhys(at), end - at}, &progress->zeroed));
    op->result().discarded_bytes += end - at;
    return absl::OkStatus();
  };
  for (const GuestPhys page : busy) {
    MOULT_RETURN_IF_ERROR(discard_to(Address(page)));
    progress->busy.push_back({page, kPage});
    at = Address(page) + kPage;
  }
  return discard_to(Address(range.start) + range.length);
}

absl::Status DiscardSome(Vm* vm, Op* op, Progress* progress) {
  uint64_t bytes = 0;
  for (size_t i = 0; i < kRangesPerLook && bytes < kBytesPerLook && !progress->done(); ++i) {
    const GuestRange& whole = progress->ranges[progress->next];
    const uint64_t length = std::min(whole.length - progress->done_of_next, kBytesPerLook);
    MOULT_RETURN_IF_ERROR(DiscardRange(vm, op, {GuestPhys(Address(whole.start) + progress->done_of_next), length}, progress));
    bytes += length;
    progress->done_of_next += length;
    if (progress->done_of_next == whole.length) {
      ++progress->next;
      progress->done_of_next = 0;
    }
  }
  return absl::OkStatus();
}

Task<absl::Status> DiscardRanges(Vm* vm, Op* op, Connection* connection, Progress* progress) {
  auto step_end = Clock::now() + kStep;
  while (!progress->done()) {
    if (!connection->IsQuiet()) {
      connection->Break();
      co_return absl::UnavailableError("the agent closed the connection while pages were discarded");
    }
    if (Clock::now() >= op->strand()->deadline()) {
      co_return absl::DeadlineExceededError("the pages could not be discarded in time");
    }
    MOULT_CO_RETURN_IF_ERROR(DiscardSome(vm, op, progress));
    if (Clock::now() < step_end) continue;
    MOULT_CO_RETURN_IF_ERROR(co_await op->strand()->Yield());
    step_end = Clock::now() + kStep;
  }
  co_return absl::OkStatus();
}

Task<absl::Status> DiscardAll(Vm* vm, Op* op, Connection* connection, const rpc::DetachReportT* report) {
  Progress progress;
  for (const rpc::GpaRun& run : report->exclusive) progress.ranges.push_back({GuestPhys(run.gpa()), run.length()});
  MOULT_CO_RETURN_IF_ERROR(co_await DiscardRanges(vm, op, connection, &progress));
  const auto until = std::min(Clock::now() + kOnTheirWayTime, op->strand()->deadline() - kOnTheirWayPause);
  while (!progress.busy.empty()) {
    if (Clock::now() >= until) {
      co_return absl::UnavailableError(absl::StrCat("on their way from or to the pool ", vm->config().pool->name(),
                                                    ", which does not answer, stay pages: ", progress.busy.size()));
    }
    MOULT_CO_RETURN_IF_ERROR(co_await Pause(op, kOnTheirWayPause, "pool"));
    progress.ranges = std::exchange(progress.busy, {});
    progress.next = 0;
    MOULT_CO_RETURN_IF_ERROR(co_await DiscardRanges(vm, op, connection, &progress));
  }
  op->result().json["counters"]["ranges"] = report->exclusive.size();
  op->result().json["counters"]["zeroed_bytes"] = progress.zeroed;
  op->EndPhase("discard");
  co_return absl::OkStatus();
}

// What an agent says of a function whose detach was interrupted.
enum class Fate { kLives, kEnding, kDetached, kEnded };

Task<absl::StatusOr<Fate>> AskFate(Vm* vm, Op* op, uint64_t function) {
  MOULT_CO_ASSIGN_OR_RETURN(const Lease lease, co_await vm->Acquire(op));
  rpc::ListT list;
  auto reply = co_await lease->Call<rpc::ListReplyT>(op->strand(), std::move(list), rpc::kMaxResponse);
  if (!reply.ok()) co_return reply.status();
  for (const auto& info : reply->functions) {
    if (info->id != function) continue;
    if (info->state == rpc::FunctionState::Detaching || info->state == rpc::FunctionState::Lost)
      co_return Fate::kEnding;
    if (info->state != rpc::FunctionState::Ended) co_return Fate::kLives;
    co_return info->end_reason == rpc::kEndReasonDetached ? Fate::kDetached : Fate::kEnded;
  }
  co_return Fate::kEnded;
}

// The connection was lost before the agent said what it did. OK: the function has ended as it should.
Task<absl::Status> FindOut(Vm* vm, Op* op, uint64_t function, absl::Status cause) {
  if (absl::IsAborted(cause)) co_return cause;  // the guest was reset
  // Who cancels wants to know it as well.
  op->strand()->set_shielded(true);
  const absl::Cleanup unshield = [op] { op->strand()->set_shielded(false); };
  const auto deadline = std::max(op->strand()->deadline(), Clock::now() + kRecovery);
  std::string last = "only one connection was given";
  while (!vm->single_connection() && Clock::now() < deadline) {
    op->strand()->set_deadline(deadline);
    const auto fate = co_await AskFate(vm, op, function);
    if (absl::IsAborted(fate.status())) co_return fate.status();  // the guest was reset
    if (fate.ok() && *fate == Fate::kDetached) co_return absl::OkStatus();
    if (fate.ok() && *fate == Fate::kLives)
      co_return Annotate(cause, absl::StrCat("function ", function, " runs on"));
    if (fate.ok() && *fate == Fate::kEnded) {
      co_return absl::DataLossError(
          absl::StrCat("function ", function, " has ended, but not by this detach (", cause.message(),
                       "): what it had in memory went to the guest's kernel as it was"));
    }
    last = fate.ok() ? "it is being detached still" : std::string(fate.status().message());
    // An agent that starts again, or is not done, needs a moment.
    op->strand()->set_deadline(std::min(deadline, Clock::now() + kRetry));
    const absl::Status waited = co_await op->strand()->ForWake("agent");
    if (absl::IsAborted(waited)) co_return waited;
  }
  co_return absl::DataLossError(absl::StrCat("function ", function, ": whether it has ended is not known (",
                                             cause.message(), "; then: ", last,
                                             "); list the functions when the agent is back"));
}

// Discards what the agent says the function had.
Task<absl::Status> DiscardReported(Vm* vm, Op* op, Connection* connection) {
  rpc::DetachPagesT ask;
  auto report =
      co_await connection->Call<rpc::DetachReportT>(op->strand(), std::move(ask), rpc::kMaxResponse);
  if (!report.ok()) co_return report.status();
  op->AddAgentPhases(report->phases);
  op->EndPhase("await_report");
  CutAtRegions(vm->memory(), &report->exclusive);
  MOULT_CO_RETURN_IF_ERROR(CheckRanges(vm, *report));
  op->strand()->set_shielded(true);
  absl::Status discarded = co_await DiscardAll(vm, op, connection, &*report);
  rpc::DetachEndT end;
  end.commit = discarded.ok();
  if (connection->broken()) co_return discarded;
  auto done = co_await connection->Call<rpc::DoneT>(op->strand(), std::move(end));
  if (done.ok()) op->AddAgentPhases(done->phases);
  op->EndPhase("await_end");
  co_return discarded;
}

Task<absl::Status> ReclaimInBackground(Vm* vm, Op* op, std::shared_ptr<Lease> lease, uint64_t function) {
  op->result().function = function;
  // The new function's first request comes first.
  const auto deadline = op->strand()->deadline();
  op->strand()->set_deadline(Clock::now() + kReclaimAfter);
  const absl::Status waited = co_await op->strand()->ForWake("quiet");
  op->strand()->set_deadline(deadline);
  absl::Status reclaimed = waited;
  if (absl::IsDeadlineExceeded(waited)) reclaimed = co_await Reclaim(vm, op, &**lease, function);
  vm->Reclaimed(function, op->result().discarded_bytes, reclaimed);
  co_return reclaimed;
}

}  // namespace

Task<absl::Status> EndFunction(Vm* vm, Op* op, Connection* connection, uint64_t function) {
  // With the driver its page frames are nobody's until they are discarded here. Without, the guest fills them with zeros.
  Doom doom;
  if (!absl::c_linear_search(vm->hello().features, "window")) {
    MOULT_CO_ASSIGN_OR_RETURN(doom, co_await Condemn(vm, op, function));
  }
  rpc::DetachT detach;
  detach.function = function;
  auto done = co_await connection->Call<rpc::DoneT>(op->strand(), std::move(detach));
  if (done.ok()) {
    op->AddAgentPhases(done->phases);
  } else {
    if (!connection->broken()) co_return co_await Spare(vm, op, function, doom, done.status());  // it runs on
    (void)connection->TakeFd();  // closed at once: that is what makes the agent give up
    absl::Status found = co_await FindOut(vm, op, function, done.status());
    if (!found.ok()) co_return co_await Spare(vm, op, function, doom, std::move(found));
    op->result().json["notes"].push_back(
        absl::StrCat("its memory is wiped by the guest, not given back: ", done.status().message()));
  }
  // Should its frames get to others before they are discarded.
  if (vm->pager() != nullptr) vm->pager()->End(function);
  op->EndPhase("end_function");
  op->result().detached = true;
  op->result().json["detached"] = true;
  co_return absl::OkStatus();
}

Task<absl::Status> Reclaim(Vm* vm, Op* op, Connection* connection, uint64_t function) {
  absl::Status status;
  if (!connection->broken()) {
    status = co_await DiscardReported(vm, op, connection);
    op->strand()->set_shielded(false);
    // One that does not know where we are would go on waiting for DetachEnd.
    if (!status.ok()) (void)connection->TakeFd();
    if (!status.ok()) connection->Break();
  }
  // What is wiped the host has to give memory for again.
  if (!status.ok()) op->result().discarded_bytes = 0;
  op->result().json["discarded_bytes"] = op->result().discarded_bytes;
  vm->FunctionGone(function);
  // The guest wipes what is left. An agent that lies is another matter.
  if (status.ok() || absl::IsDataLoss(status) || absl::IsCancelled(status)) co_return status;
  op->result().json["notes"].push_back(
      absl::StrCat("its memory was not given back, the guest wipes it: ", status.message()));
  co_return absl::OkStatus();
}

void StartReclaim(Vm* vm, Lease lease, uint64_t function) {
  auto shared = std::make_shared<Lease>(std::move(lease));
  vm->Reclaiming(function);
  vm->Start("reclaim", 0, kReclaimMs,
            [shared, function](Vm* on, Op* op) { return ReclaimInBackground(on, op, shared, function); });
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
        op->result().json["notes"].push_back(
            absl::StrCat("a template stays mapped: ", done.status().message()));
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
  MOULT_CO_RETURN_IF_ERROR(co_await EndFunction(vm, op, &*lease, function));
  MOULT_CO_RETURN_IF_ERROR(co_await Reclaim(vm, op, &*lease, function));
  if (!lease->broken()) (void)co_await ReleaseIdle(vm, op, &*lease);
  co_return absl::OkStatus();
}

}  // namespace moult::host::ops
