// SPDX-License-Identifier: Apache-2.0
//
// Run and Attach: a shell becomes a function.
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>

#include "function/exec.h"
#include "function/ready.h"
#include "image/restore.h"
#include "image/window.h"
#include "moult/protocol/digest.h"
#include "moult/protocol/limits.h"
#include "moult/protocol/parse.h"
#include "moult/protocol/validate.h"
#include "proc/read.h"
#include "proc/status.h"
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
  worker.Tell({.state = rpc::FunctionState::Running, .done = true});
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

absl::Status WriteFile(const std::string& path, absl::Span<const uint8_t> bytes) {
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd.valid()) return ErrnoStatus(absl::StrCat("make ", path));
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t n = write(fd.get(), bytes.data() + done, bytes.size() - done);
    if (n < 0) return ErrnoStatus(absl::StrCat("write ", path));
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::Status ReceivePages(Worker& worker, const std::string& path, uint64_t size) {
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd.valid()) return ErrnoStatus(absl::StrCat("make ", path));
  std::vector<std::byte> piece(rpc::kMaxDataFrame);
  absl::Status failed;
  for (uint64_t at = 0; at < size;) {
    const absl::Span<std::byte> part(piece.data(), std::min<uint64_t>(piece.size(), size - at));
    MOULT_RETURN_IF_ERROR(worker.channel.ReceiveData(worker.call, part, worker.deadline));
    // After an error the rest is taken in all the same, so that the stream stays in step.
    if (failed.ok() && pwrite(fd.get(), part.data(), part.size(), static_cast<off_t>(at)) !=
                           static_cast<ssize_t>(part.size()))
      failed = ErrnoStatus(absl::StrCat("write ", path));
    at += part.size();
  }
  return failed;
}

// What a template says of itself, checked as a folder's would be.
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
  const image::Sha256Digest digest = image::Sha256Of(text(attach.image));
  const auto& wanted = *described.manifest->image;
  if (wanted.size != attach.image.size() ||
      !std::equal(digest.begin(), digest.end(), wanted.sha256.begin(), wanted.sha256.end()))
    return absl::DataLossError("image: does not match its digest in the manifest");
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

absl::StatusOr<engine::RestoreResult> RestoreStreamed(Worker& worker, const rpc::AttachT& attach) {
  const std::string folder = worker.function->folder + "/template";
  // The data follow whatever happens here, so they are read before anything else can fail.
  if (mkdir(folder.c_str(), 0700) < 0) return ErrnoStatus(absl::StrCat("make ", folder));
  MOULT_RETURN_IF_ERROR(
      ReceivePages(worker, absl::StrCat(folder, "/", image::kPagesFile), attach.pages_size));
  worker.phases.End("receive");
  MOULT_RETURN_IF_ERROR(WriteFile(absl::StrCat(folder, "/", image::kImageFile), attach.image));
  MOULT_RETURN_IF_ERROR(WriteFile(absl::StrCat(folder, "/", image::kManifestFile), attach.manifest));
  return engine::Restore(folder, Options(*worker.function));
}

absl::StatusOr<engine::RestoreResult> RestoreWindow(Worker& worker, const rpc::AttachT& attach) {
  MOULT_ASSIGN_OR_RETURN(const UniqueFd driver,
                         engine::OpenWindow(attach.window, attach.window_offset, attach.pages_size));
  MOULT_ASSIGN_OR_RETURN(const Described described, Describe(attach));
  worker.phases.End("read image");
  const engine::PageSource pages{driver.get(), attach.window_offset, true, attach.window};
  return engine::RestoreFrom({attach.name, *described.image, *described.manifest, pages},
                             Options(*worker.function));
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
  std::error_code ignored;
  std::filesystem::remove_all(function.folder + "/template", ignored);
  MOULT_RETURN_IF_ERROR(prepared);
  MOULT_RETURN_IF_ERROR(restored.status());
  const pid_t pid = restored->processes.front().pid;
  auto text = proc::ReadFile(absl::StrCat("/proc/", pid, "/status"));
  auto status = text.ok() ? proc::ParseStatus(*text) : text.status();
  Begun(worker, pid, status.ok() && !status->ns_tgid.empty() ? status->ns_tgid.back() : 0);
  *notes = restored->notes;
  worker.phases.Take(restored->phases);
  MOULT_RETURN_IF_ERROR(
      RunHook(function, function.info.spec->after_attach.get(), "after_attach", worker.MakeWatch()));
  worker.phases.End("after_attach");
  MOULT_RETURN_IF_ERROR(AwaitEndpoint(function, worker.MakeWatch()));
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
