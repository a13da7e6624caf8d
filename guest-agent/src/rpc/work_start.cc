// SPDX-License-Identifier: Apache-2.0
//
// Run and Attach: a shell becomes a function.
#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>

#include "function/exec.h"
#include "function/ready.h"
#include "ledger/accesses.h"
#include "ledger/stamps.h"
#include "image/restore.h"
#include "image/window.h"
#include "moult/protocol/function_spec.h"
#include "resource/inet_socket/inet_socket.h"
#include "rpc/kept_template.h"
#include "rpc/standby.h"
#include "rpc/streamed_pages.h"
#include "rpc/worker.h"

namespace moult::agent {
namespace {

constexpr std::chrono::seconds kStartEndTime{10};

// What is half-made goes, before the host hears of the failure.
absl::Status Undo(Worker& worker, const absl::Status& failed) {
  const absl::Status status = worker.Explain(failed);
  syscall(SYS_pidfd_send_signal, worker.function->init_pidfd.get(), SIGKILL, nullptr, 0);
  Watch watch;
  watch.deadline = Clock::now() + kStartEndTime;
  (void)Wait(watch, worker.function->init_pidfd.get(), POLLIN);
  worker.Tell({.drop = true});
  return status;
}

absl::Status SetLimits(const Function& function) {
  const rpc::FunctionSpecT& spec = *function.info.spec;
  if (function.cgroup == nullptr) {
    // Only where the configuration says that it may go without.
    return absl::OkStatus();
  }
  return function.cgroup->Limit({spec.memory_limit, spec.cpu_limit_milli, spec.pids_limit});
}

// The log is written to by its function's user, also by one that opens it again.
absl::Status GiveLog(const Function& function) {
  const rpc::FunctionSpecT& spec = *function.info.spec;
  if (chown(function.log_path().c_str(), spec.uid, spec.gid) < 0)
    return ErrnoStatus(absl::StrCat("chown ", function.log_path()));
  return absl::OkStatus();
}

void Begun(Worker& worker, pid_t pid, pid_t inner_pid) {
  worker.function->info.pid = pid;
  worker.function->info.inner_pid = inner_pid;
}

// Before something that may take its time.
void TellPid(const Worker& worker) {
  worker.Tell({.pid = worker.function->info.pid, .inner_pid = worker.function->info.inner_pid});
}

absl::Status Ready(Worker& worker, std::vector<std::string> notes) {
  worker.function->info.state = rpc::FunctionState::Running;
  const rpc::FunctionInfoT& info = worker.function->info;
  // Before the host is told: an agent that starts anew ends what was never ready.
  if (!worker.TellAndConfirm({.state = info.state, .pid = info.pid, .inner_pid = info.inner_pid, .done = true}))
    return Undo(worker, absl::CancelledError("the agent has ended"));
  // A host that is not there to hear it finds the function in List.
  (void)worker.RespondFunction(std::move(notes));
  return absl::OkStatus();
}

// What it holds by now is of this part of its life, which ends. A function runs as well without.
void Stamp(const Function& function, rpc::Segment segment, Stamps& stamps, std::vector<std::string>* notes) {
  const absl::StatusOr<std::vector<pid_t>> pids = function.Processes();
  absl::Status status = pids.status();
  for (size_t i = 0; status.ok() && i < pids->size(); ++i) {
    status = stamps.Add((*pids)[i], segment);
    if (absl::IsNotFound(status)) status = absl::OkStatus();
  }
  if (status.ok()) status = stamps.Save(function.folder);
  if (!status.ok()) notes->push_back(absl::StrCat("its segments are not known: ", status.message()));
}

// The end of its initialization: what it touches from now on is what it needs.
void StampReady(const Function& function, Stamps& stamps, std::vector<std::string>* notes) {
  Stamp(function, rpc::Segment::Init, stamps, notes);
  if (const absl::Status forgotten = Accesses().Forget(function); !forgotten.ok())
    notes->push_back(absl::StrCat("which pages are cold is not known: ", forgotten.message()));
}

absl::Status Start(Worker& worker, std::vector<std::string>* notes) {
  Function& function = *worker.function;
  const rpc::FunctionSpecT& spec = *function.info.spec;
  MOULT_RETURN_IF_ERROR(SetLimits(function));
  MOULT_RETURN_IF_ERROR(GiveLog(function));
  Program program;
  program.argv = spec.argv;
  program.env = spec.env;
  program.cwd = spec.cwd;
  program.uid = spec.uid;
  program.gid = spec.gid;
  program.sandbox_init = function.sandbox->handles().pidfd;
  program.time_namespace = function.sandbox->handles().time_namespace;
  program.cgroup = function.cgroup ? function.cgroup->fd() : -1;
  MOULT_ASSIGN_OR_RETURN(const Started started, StartProgram(program, /*orphan=*/true));
  function.sandbox->SetChild(started.inner_pid, /*outlives_maker=*/true);
  Begun(worker, started.pid, started.inner_pid);
  TellPid(worker);
  worker.phases.End("start");
  Stamps stamps;
  if (spec.runtime_up != nullptr) {
    MOULT_RETURN_IF_ERROR(
        Annotate(AwaitReady(function, spec.runtime_up.get(), worker.MakeWatch()), "runtime_up"));
    Stamp(function, rpc::Segment::Runtime, stamps, notes);
  }
  MOULT_RETURN_IF_ERROR(AwaitReady(function, spec.readiness.get(), worker.MakeWatch()));
  worker.phases.End("ready");
  StampReady(function, stamps, notes);
  worker.phases.End("stamp");
  return absl::OkStatus();
}

engine::RestoreOptions Options(const Function& function) {
  engine::RestoreOptions options;
  options.sandbox = true;
  options.prepared = function.sandbox.get();
  options.cgroup = function.cgroup ? function.cgroup->fd() : -1;
  return options;
}

// Whether a socket that comes back listening is the endpoint: then it accepts connections from the first
// moment on.
bool ListensAt(const image::ProcessImageT& image, const rpc::EndpointT* endpoint) {
  return endpoint != nullptr &&
         std::any_of(image.open_files.begin(), image.open_files.end(), [&](const auto& file) {
           if (const auto* inet = file->resource.AsInetSocket();
               inet != nullptr && endpoint->kind == rpc::EndpointKind::Tcp)
             return inet->state == image::SocketState::Listening &&
                    engine::ReachableAt(*inet, endpoint->port);
           if (const auto* unix = file->resource.AsUnixSocket();
               unix != nullptr && endpoint->kind == rpc::EndpointKind::Unix)
             return unix->state == image::SocketState::Listening &&
                    std::equal(unix->address.begin(), unix->address.end(), endpoint->path.begin(),
                               endpoint->path.end());
           return false;
         });
}

struct Restored {
  engine::RestoreResult result;
  pid_t inner_pid = 0;
  bool listens = false;  // at its endpoint
};

Restored Take(engine::RestoreResult result, const image::ProcessImageT& image, const Worker& worker) {
  return {std::move(result), image.processes.front()->pid,
          ListensAt(image, worker.function->info.spec->endpoint.get())};
}

absl::StatusOr<Restored> RestoreStreamed(Worker& worker, const rpc::AttachT& attach) {
  // The data follow whatever happens here, so they are read before anything else can fail.
  MOULT_ASSIGN_OR_RETURN(const StreamedPages pages, StreamedPages::Receive(worker, attach.pages_size));
  worker.phases.End("receive");
  MOULT_ASSIGN_OR_RETURN(const Described described, Describe(attach));
  MOULT_RETURN_IF_ERROR(pages.Verify(*described.manifest));
  worker.phases.End("read image");
  MOULT_ASSIGN_OR_RETURN(
      engine::RestoreResult result,
      engine::RestoreFrom({attach.name, *described.image, *described.manifest, {pages.fd()}},
                          Options(*worker.function)));
  return Take(std::move(result), *described.image, worker);
}

// The worker has the template already when the request is short, and keeps it when it may.
absl::StatusOr<Restored> RestoreWindow(Worker& worker, const rpc::AttachT& attach) {
  if (worker.kept == nullptr) {
    MOULT_ASSIGN_OR_RETURN(worker.kept, KeptTemplate::Read(attach));
    worker.phases.End("read image");
  }
  MOULT_ASSIGN_OR_RETURN(engine::RestoreResult result,
                         worker.kept->restorer().Run(Options(*worker.function)));
  Restored restored = Take(std::move(result), worker.kept->image(), worker);
  const bool stays = worker.config.keep_templates != 0 && worker.kept->MayStay() &&
                     rpc::SerializeFunctionSpec(*attach.spec).size() <= kMaxKeptSpec;
  if (!stays) worker.kept.reset();
  return restored;
}

absl::Status WriteGeneration(const Function& function) {
  const std::string path = function.folder + "/shared/generation";
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(absl::StrCat("open ", path));
  const std::string text = absl::StrCat(function.info.generation, "\n");
  if (write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return ErrnoStatus(absl::StrCat("write ", path));
  return absl::OkStatus();
}

absl::Status Attach(Worker& worker, std::vector<std::string>* notes) {
  Function& function = *worker.function;
  const rpc::AttachT& attach = *worker.request.body.AsAttach();
  absl::Status prepared = SetLimits(function);
  if (prepared.ok()) prepared = GiveLog(function);
  if (prepared.ok()) prepared = WriteGeneration(function);
  worker.phases.End("prepare");
  auto restored = attach.source == rpc::PageSource::Window
                      ? (prepared.ok() ? RestoreWindow(worker, attach) : prepared)
                      : RestoreStreamed(worker, attach);
  MOULT_RETURN_IF_ERROR(prepared);
  MOULT_RETURN_IF_ERROR(restored.status());
  Begun(worker, restored->result.processes.front().pid, restored->inner_pid);
  *notes = restored->result.notes;
  worker.phases.Take(restored->result.phases);
  const bool at_once = restored->listens && function.info.spec->after_attach == nullptr;
  if (!at_once) TellPid(worker);
  MOULT_RETURN_IF_ERROR(
      RunHook(function, function.info.spec->after_attach.get(), "after_attach", worker.MakeWatch()));
  worker.phases.End("after_attach");
  // A connection that is made only to see whether it is taken costs the function its first pages.
  if (!restored->listens) MOULT_RETURN_IF_ERROR(AwaitEndpoint(function, worker.MakeWatch()));
  worker.phases.End("ready");
  // What it shares with a template in a window is not its own; what was copied for it would all count as young.
  if (attach.source != rpc::PageSource::Window) {
    Stamps stamps;
    StampReady(function, stamps, notes);
    worker.phases.End("stamp");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status DoRun(Worker& worker) {
  std::vector<std::string> notes;
  const absl::Status status = Start(worker, &notes);
  return status.ok() ? Ready(worker, std::move(notes)) : Undo(worker, status);
}

absl::Status DoAttach(Worker& worker) {
  std::vector<std::string> notes;
  const absl::Status status = Attach(worker, &notes);
  return status.ok() ? Ready(worker, std::move(notes)) : Undo(worker, status);
}

}  // namespace moult::agent
