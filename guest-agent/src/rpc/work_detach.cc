// SPDX-License-Identifier: Apache-2.0
//
// Detach: the function stands still while the host discards its pages, then it is killed.
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <optional>

#include "ledger/exclusive.h"
#include "ledger/hold.h"
#include "ledger/pipes.h"
#include "rpc/log.h"
#include "rpc/worker.h"

namespace moult::agent {
namespace {

constexpr std::chrono::seconds kFreezeTime{10};
constexpr std::chrono::seconds kAnswerTime{30};
constexpr std::chrono::seconds kEndTime{30};

// What the host may discard. `hold` keeps it what it is as long as it lives; empty: there is no driver to do
// so, nothing may be discarded, and the guest wipes it.
absl::StatusOr<std::vector<FrameRun>> FindPages(pid_t init_pid, std::optional<FrameHold>* hold) {
  auto opened = FrameHold::Open();
  if (!opened.ok()) {
    Log(absl::StrCat("detach: pages are wiped, not given back: ", opened.status().message()));
    return std::vector<FrameRun>();
  }
  hold->emplace(*std::move(opened));
  return HoldWhatIsFound(ExclusiveFinder(init_pid),
                         [hold](const std::vector<FrameRun>& runs) { return (*hold)->Hold(runs); });
}

// There is no way back: the host has discarded, and the function ends.
absl::Status Wipe(Worker& worker, bool pages) {
  if (pages) MOULT_RETURN_IF_ERROR(WipeExclusive(worker.function->init_pid));
  return WipePipes(worker.function->init_pid);
}

absl::Status Report(Worker& worker, std::optional<FrameHold>* hold) {
  MOULT_ASSIGN_OR_RETURN(const auto runs, FindPages(worker.function->init_pid, hold));
  worker.phases.End("ledger");
  rpc::DetachReportT report;
  for (const FrameRun& run : runs) report.exclusive.emplace_back(run.gpa, run.length);
  report.phases = ToPhases(worker.phases);
  return worker.Respond(rpc::MakeResponse(std::move(report)));
}

absl::Status Kill(Worker& worker, const absl::Status& wiped) {
  const int init = worker.function->init_pidfd.get();
  // A host that has lost the connection asks for this reason.
  worker.Tell({.end_reason = wiped.ok() ? rpc::kEndReasonDetached
                                        : absl::StrCat("detached, but not wiped: ", wiped.message())});
  if (syscall(SYS_pidfd_send_signal, init, SIGKILL, nullptr, 0) < 0 && errno != ESRCH)
    return ErrnoStatus("kill the function");
  // With the init all in its pid namespace have gone, and their memory with them.
  Watch watch;
  watch.deadline = Clock::now() + kEndTime;
  return Wait(watch, init, POLLIN);
}

absl::Status Finish(Worker& worker) {
  std::optional<FrameHold> hold;
  MOULT_RETURN_IF_ERROR(Report(worker, &hold));
  uint64_t call = 0;
  MOULT_ASSIGN_OR_RETURN(const auto request, worker.AwaitEnd(rpc::RequestBody::DetachEnd, &call));
  worker.phases.End("host");
  const bool commit = request->body.AsDetachEnd()->commit;
  if (commit) {
    const absl::Status wiped = Wipe(worker, !hold.has_value());
    worker.phases.End("wipe");
    absl::Status killed = Kill(worker, wiped);
    worker.phases.End("kill");
    killed.Update(wiped);
    worker.Tell({.done = true});
    if (!killed.ok())
      return worker.channel.Respond(call, rpc::ErrorResponse(killed), Clock::now() + kAnswerTime);
  } else {
    if (worker.function->info.state != rpc::FunctionState::Frozen)
      MOULT_RETURN_IF_ERROR(worker.function->cgroup->Thaw());
    worker.Tell({.state = worker.function->info.state, .done = true});
  }
  rpc::DoneT done;
  done.phases = ToPhases(worker.phases);
  return worker.channel.Respond(call, rpc::MakeResponse(std::move(done)), Clock::now() + kAnswerTime);
}

}  // namespace

absl::Status DoDetach(Worker& worker) {
  Function& function = *worker.function;
  if (function.cgroup == nullptr) {
    return absl::FailedPreconditionError(
        "this agent goes without cgroups (require_cgroup is false), so it cannot make the function stand "
        "still; mount cgroup v2 and restart it");
  }
  const bool was_frozen = function.info.state == rpc::FunctionState::Frozen;
  if (!was_frozen)
    MOULT_RETURN_IF_ERROR(function.cgroup->Freeze(std::min(worker.deadline, Clock::now() + kFreezeTime)));
  worker.phases.End("freeze");
  worker.Tell({.state = rpc::FunctionState::Detaching});
  const absl::Status status = Finish(worker);
  if (status.ok()) return status;
  // The host has gone, or could not be told: as if it had not wanted to.
  if (!was_frozen) (void)function.cgroup->Thaw();
  worker.Tell({.state = function.info.state});
  return status;
}

}  // namespace moult::agent
