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
#include "image/restore.h"
#include "image/window.h"
#include "moult/protocol/parse.h"
#include "moult/protocol/validate.h"
#include "resource/inet_socket/inet_socket.h"
#include "rpc/streamed_pages.h"
#include "rpc/worker.h"

namespace moult::agent {
namespace {

constexpr std::chrono::seconds kEndTime{10};

// What is half-made goes, before the host hears of the failure.
absl::Status Undo(Worker& worker, const absl::Status& failed) {
  const absl::Status status = worker.Explain(failed);
  syscall(SYS_pidfd_send_signal, worker.function->init_pidfd.get(), SIGKILL, nullptr, 0);
  Watch watch;
  watch.deadline = Clock::now() + kEndTime;
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
  worker.Tell({.pid = pid, .inner_pid = inner_pid});
}

absl::Status Ready(Worker& worker, std::vector<std::string> notes) {
  worker.function->info.state = rpc::FunctionState::Running;
  if (!worker.Tell({.state = rpc::FunctionState::Running, .done = true}))
    return Undo(worker, absl::CancelledError("the agent has ended"));
  // A host that is not there to hear it finds the function in List.
  (void)worker.RespondFunction(std::move(notes));
  return absl::OkStatus();
}

absl::Status Start(Worker& worker) {
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
  worker.phases.End("start");
  MOULT_RETURN_IF_ERROR(AwaitReady(function, worker.MakeWatch()));
  worker.phases.End("ready");
  return absl::OkStatus();
}

// What a template says of itself, checked as a folder's would be, but for digests of what the host has read.
struct Described {
  std::unique_ptr<image::ManifestT> manifest;
  std::unique_ptr<image::ProcessImageT> image;
};

absl::StatusOr<Described> Describe(const rpc::AttachT& attach) {
  const auto text = [](const std::vector<uint8_t>& bytes) {
    return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  Described described;
  MOULT_ASSIGN_OR_RETURN(described.manifest, image::ParseManifest(text(attach.manifest)));
  // The host has checked its digest, and the way from there loses nothing: a hash of it would be a good part of an attach.
  if (described.manifest->image->size != attach.image.size())
    return absl::DataLossError(absl::StrCat("image: ", attach.image.size(), " bytes, the manifest says ",
                                            described.manifest->image->size));
  if (described.manifest->pages->size != attach.pages_size)
    return absl::DataLossError(absl::StrCat("pages: ", attach.pages_size, " bytes, the manifest says ",
                                            described.manifest->pages->size));
  MOULT_ASSIGN_OR_RETURN(described.image, image::ParseImage(text(attach.image)));
  MOULT_RETURN_IF_ERROR(image::ValidateImage(*described.image, attach.pages_size));
  MOULT_RETURN_IF_ERROR(image::ValidateMatch(*described.manifest, *described.image));
  return described;
}

engine::RestoreOptions Options(const Function& function) {
  engine::RestoreOptions options;
  options.sandbox = true;
  options.prepared = function.sandbox.get();
  options.cgroup = function.cgroup ? function.cgroup->fd() : -1;
  return options;
}

// Whether a socket that comes back listening is the endpoint: then it accepts connections from the first moment on.
bool ListensAt(const image::ProcessImageT& image, const rpc::EndpointT* endpoint) {
  return endpoint != nullptr && std::any_of(image.open_files.begin(), image.open_files.end(), [&](const auto& file) {
    if (const auto* inet = file->resource.AsInetSocket(); inet != nullptr && endpoint->kind == rpc::EndpointKind::Tcp)
      return inet->state == image::SocketState::Listening && engine::ReachableAt(*inet, endpoint->port);
    if (const auto* unix = file->resource.AsUnixSocket(); unix != nullptr && endpoint->kind == rpc::EndpointKind::Unix)
      return unix->state == image::SocketState::Listening && std::equal(unix->address.begin(), unix->address.end(), endpoint->path.begin(), endpoint->path.end());
    return false;
  });
}

struct Restored {
  engine::RestoreResult result;
  pid_t inner_pid = 0;
  bool listens = false;  // at its endpoint
};

absl::StatusOr<Restored> RestoreDescribed(const Worker& worker, const rpc::AttachT& attach, const Described& described,
                                          const engine::PageSource& pages) {
  Restored restored;
  MOULT_ASSIGN_OR_RETURN(restored.result, engine::RestoreFrom({attach.name, *described.image, *described.manifest, pages},
                                                              Options(*worker.function)));
  restored.inner_pid = described.image->processes.front()->pid;
  restored.listens = ListensAt(*described.image, worker.function->info.spec->endpoint.get());
  return restored;
}

absl::StatusOr<Restored> RestoreStreamed(Worker& worker, const rpc::AttachT& attach) {
  // The data follow whatever happens here, so they are read before anything else can fail.
  MOULT_ASSIGN_OR_RETURN(const StreamedPages pages, StreamedPages::Receive(worker, attach.pages_size));
  worker.phases.End("receive");
  MOULT_ASSIGN_OR_RETURN(const Described described, Describe(attach));
  MOULT_RETURN_IF_ERROR(pages.Verify(*described.manifest));
  worker.phases.End("read image");
  return RestoreDescribed(worker, attach, described, {pages.fd()});
}

absl::StatusOr<Restored> RestoreWindow(Worker& worker, const rpc::AttachT& attach) {
  MOULT_ASSIGN_OR_RETURN(const UniqueFd driver,
                         engine::OpenWindow(attach.window, attach.window_offset, attach.pages_size));
  MOULT_ASSIGN_OR_RETURN(const Described described, Describe(attach));
  worker.phases.End("read image");
  const engine::PageSource pages{driver.get(), attach.window_offset, true, attach.window};
  return RestoreDescribed(worker, attach, described, pages);
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
  MOULT_RETURN_IF_ERROR(
      RunHook(function, function.info.spec->after_attach.get(), "after_attach", worker.MakeWatch()));
  worker.phases.End("after_attach");
  // A connection that is made only to see whether it is taken costs the function its first pages.
  if (!restored->listens) MOULT_RETURN_IF_ERROR(AwaitEndpoint(function, worker.MakeWatch()));
  worker.phases.End("ready");
  return absl::OkStatus();
}

}  // namespace

absl::Status DoRun(Worker& worker) {
  const absl::Status status = Start(worker);
  return status.ok() ? Ready(worker, {}) : Undo(worker, status);
}

absl::Status DoAttach(Worker& worker) {
  std::vector<std::string> notes;
  const absl::Status status = Attach(worker, &notes);
  return status.ok() ? Ready(worker, std::move(notes)) : Undo(worker, status);
}

}  // namespace moult::agent
