// SPDX-License-Identifier: Apache-2.0
//
// Detach: the function ends, its memory stays until the host has discarded it. Whatever comes between,
// nothing of it gets to anybody else: the driver has the memory, and its close fills with zeros what was not
// released.
#include <linux/magic.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <optional>
#include <utility>
#include <vector>

#include "ledger/exclusive.h"
#include "ledger/hold.h"
#include "ledger/pipes.h"
#include "moult/protocol/frame.h"
#include "moult/protocol/limits.h"
#include "rpc/log.h"
#include "rpc/worker.h"

namespace moult::agent {
namespace {

constexpr std::chrono::seconds kTasksEndTime{30};
// What comes after the function's end is for nobody to wait for.
constexpr int kNiceness = 19;

// What the driver has of a function.
struct Remains {
  std::optional<FrameHold> hold;  // empty: there is no driver, and the guest has wiped its memory
  std::vector<FrameRun> shmem;
};

// Whether something is in the folders that only it has, whoever has paid for it.
bool HasPrivateFiles(const Function& function) {
  return std::any_of(std::begin(image::kPrivateFolders), std::end(image::kPrivateFolders), [&](const char* folder) {
    struct statfs fs {};
    return statfs(absl::StrCat("/proc/", function.init_pid, "/root", folder).c_str(), &fs) == 0 &&
           fs.f_type == TMPFS_MAGIC && fs.f_blocks != fs.f_bfree;
  });
}

// Files of tmpfs and shared memory that only it has. The kernel's accounting says cheaply that there is none.
absl::StatusOr<std::vector<FrameRun>> HoldShmem(const Function& function, FrameHold& hold) {
  const auto bytes = function.cgroup->SharedMemoryBytes();
  if (bytes.ok() && *bytes == 0 && !HasPrivateFiles(function)) return std::vector<FrameRun>();
  return HoldWhatIsFound(ExclusiveShmemFinder(function.init_pid),
                         [&hold](const std::vector<FrameRun>& runs) { return hold.Hold(runs); });
}

absl::Status KeepProcesses(const Function& function, FrameHold& hold) {
  MOULT_ASSIGN_OR_RETURN(const std::vector<pid_t> pids, function.cgroup->Processes());
  for (const pid_t pid : pids) {
    if (pid == function.init_pid) continue;  // the sandbox's own
    const absl::Status kept = hold.Keep(pid);
    if (!kept.ok() && !absl::IsNotFound(kept)) return kept;  // a zombie has none
  }
  return absl::OkStatus();
}

// Changes nothing that cannot be undone.
absl::StatusOr<Remains> Keep(const Function& function) {
  Remains remains;
  auto opened = FrameHold::Open();
  if (!opened.ok()) {
    Log(absl::StrCat("detach: pages are wiped, not given back: ", opened.status().message()));
    return remains;
  }
  remains.hold.emplace(*std::move(opened));
  MOULT_ASSIGN_OR_RETURN(remains.shmem, HoldShmem(function, *remains.hold));
  MOULT_RETURN_IF_ERROR(KeepProcesses(function, *remains.hold));
  return remains;
}

// There is no way back: the function loses memory, and ends.
absl::Status Wipe(const Function& function, const Remains& remains) {
  absl::Status wiped = remains.hold.has_value() ? absl::OkStatus() : WipeExclusive(function.init_pid);
  wiped.Update(WipePipes(function.init_pid));
  return wiped;
}

absl::Status Kill(const Worker& worker, const absl::Status& wiped) {
  const int init = worker.function->init_pidfd.get();
  // A host that has lost the connection asks for this reason.
  worker.Tell({.end_reason = wiped.ok() ? rpc::kEndReasonDetached
                                        : absl::StrCat("detached, but not wiped: ", wiped.message())});
  if (syscall(SYS_pidfd_send_signal, init, SIGKILL, nullptr, 0) < 0 && errno != ESRCH)
    return ErrnoStatus("kill the function");
  // With the init all in its pid namespace have gone.
  Watch watch;
  watch.deadline = Clock::now() + kTasksEndTime;
  const absl::Status ended = Wait(watch, init, POLLIN);
  if (ended.ok()) return ended;
  return absl::DataLossError(
      absl::StrCat("the function was killed, but has not ended; what it has is not given back: ", ended.message()));
}

absl::Status TellRemains(Worker& worker, uint64_t call, Remains& remains) {
  std::vector<FrameRun> runs = std::move(remains.shmem);
  if (remains.hold.has_value()) {
    MOULT_ASSIGN_OR_RETURN(const std::vector<FrameRun> kept, remains.hold->ListKept());
    runs.insert(runs.end(), kept.begin(), kept.end());
  }
  rpc::DetachReportT report;
  for (const FrameRun& run : MergeRuns(std::move(runs))) report.exclusive.emplace_back(run.gpa, run.length);
  worker.phases.End("list");
  report.phases = ToPhases(worker.phases);
  return worker.channel.Respond(call, rpc::MakeResponse(std::move(report)), worker.MessageDeadline());
}

// The function has ended. On an error here its memory is wiped, as `remains` goes.
absl::Status GiveBack(Worker& worker, Remains remains) {
  setpriority(PRIO_PROCESS, 0, kNiceness);
  worker.function->init_pidfd.Reset();  // its end is no news
  uint64_t call = 0;
  MOULT_RETURN_IF_ERROR(worker.AwaitEnd(rpc::RequestBody::DetachPages, &call).status());
  worker.phases = {};
  if (const absl::Status reported = TellRemains(worker, call, remains); !reported.ok()) {
    (void)worker.channel.Respond(call, rpc::ErrorResponse(reported), worker.MessageDeadline());
    return reported;
  }
  MOULT_ASSIGN_OR_RETURN(const auto request, worker.AwaitEnd(rpc::RequestBody::DetachEnd, &call));
  worker.phases = {};
  absl::Status released;
  if (request->body.AsDetachEnd()->commit && remains.hold.has_value()) released = remains.hold->Release();
  remains.hold.reset();
  worker.phases.End("release");
  worker.Tell({.done = true});
  rpc::DoneT done;
  done.phases = ToPhases(worker.phases);
  return worker.channel.Respond(
      call, released.ok() ? rpc::MakeResponse(std::move(done)) : rpc::ErrorResponse(released),
      worker.MessageDeadline());
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
  auto remains = Keep(function);
  worker.phases.End("keep");
  if (!remains.ok()) {
    if (!was_frozen) (void)function.cgroup->Thaw();
    worker.Tell({.state = function.info.state});
    return worker.Explain(remains.status());
  }
  const absl::Status wiped = Wipe(function, *remains);
  worker.phases.End("wipe");
  MOULT_RETURN_IF_ERROR(Kill(worker, wiped));
  worker.phases.End("kill");
  // By any other error a host would believe that it runs on.
  if (!wiped.ok())
    return absl::DataLossError(
        absl::StrCat("the function has ended, but not all of its memory was wiped: ", wiped.message()));
  rpc::DoneT done;
  done.phases = ToPhases(worker.phases);
  MOULT_RETURN_IF_ERROR(worker.Respond(rpc::MakeResponse(std::move(done))));
  return GiveBack(worker, *std::move(remains));
}

}  // namespace moult::agent
