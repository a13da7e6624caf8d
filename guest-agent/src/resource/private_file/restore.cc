// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <csignal>
#include <map>

#include "image/restore_context.h"
#include "image/sandbox.h"
#include "moult/protocol/limits.h"
#include "resource/private_file/private_file.h"

namespace moult::engine {
namespace {

bool IsRoot(const image::PrivateFileT& file) {
  return std::find(std::begin(image::kPrivateFolders), std::end(image::kPrivateFolders), file.path) != std::end(image::kPrivateFolders);
}

// What the caller sees at the private folders, from which those of a sandbox must differ: what is written to them
// would else be written to everybody's.
using Devices = std::map<std::string, dev_t>;

Devices OwnDevices() {
  Devices devices;
  for (const char* folder : image::kPrivateFolders) {
    struct stat st {};
    if (stat(folder, &st) == 0) devices[folder] = st.st_dev;
  }
  return devices;
}

absl::Status CheckRoot(const image::PrivateFileT& file, const Devices& own) {
  struct stat st {};
  struct statfs fs {};
  if (stat(file.path.c_str(), &st) < 0 || statfs(file.path.c_str(), &fs) < 0) return ErrnoStatus(absl::StrCat("look at the sandbox's ", file.path));
  const auto known = own.find(file.path);
  if (fs.f_type == TMPFS_MAGIC && (known == own.end() || known->second != st.st_dev)) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("the sandbox has no ", file.path, " of its own; attach the template with moult-agent"));
}

absl::Status Make(const image::ProcessImageT& image, const image::PrivateFileT& file, const PageSource& pages) {
  const char* path = file.path.c_str();
  if (file.same_as != 0xffffffffu) {
    return link(image.private_files[file.same_as]->path.c_str(), path) == 0 ? absl::OkStatus() : ErrnoStatus("link");
  }
  switch (file.mode & S_IFMT) {
    case S_IFDIR:
      return mkdir(path, 0700) == 0 ? absl::OkStatus() : ErrnoStatus("mkdir");
    case S_IFLNK:
      return symlink(file.target.c_str(), path) == 0 ? absl::OkStatus() : ErrnoStatus("symlink");
    case S_IFIFO:
      return mkfifo(path, 0600) == 0 ? absl::OkStatus() : ErrnoStatus("mkfifo");
    default:
      break;
  }
  const UniqueFd fd(open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  return fd.valid() ? FillFile(file.size, file.runs, pages, fd.get()) : ErrnoStatus("create");
}

absl::Status SetAttributes(const image::PrivateFileT& file) {
  const char* path = file.path.c_str();
  if (lchown(path, file.uid, file.gid) < 0) return ErrnoStatus("chown");
  // A change of owner takes special bits away.
  if (!S_ISLNK(file.mode) && chmod(path, file.mode & 07777) < 0) return ErrnoStatus("chmod");
  constexpr int64_t kSecond = 1'000'000'000;
  const int64_t part = ((file.mtime_ns % kSecond) + kSecond) % kSecond;
  const timespec times[2] = {{0, UTIME_NOW}, {(file.mtime_ns - part) / kSecond, part}};
  if (utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW) < 0) return ErrnoStatus("set its time");
  return absl::OkStatus();
}

absl::Status Fill(const image::ProcessImageT& image, const PageSource& pages, const Sandbox* sandbox) {
  const Devices own = OwnDevices();
  MOULT_ASSIGN_OR_RETURN(const MountScope scope, MountScope::Enter(sandbox));
  for (const auto& file : image.private_files) {
    MOULT_RETURN_IF_ERROR(Annotate(IsRoot(*file) ? CheckRoot(*file, own) : Make(image, *file, pages), file->path));
  }
  // Backwards: what is made in a folder changes its time.
  for (auto file = image.private_files.rbegin(); file != image.private_files.rend(); ++file) {
    if ((*file)->same_as == 0xffffffffu) MOULT_RETURN_IF_ERROR(Annotate(SetAttributes(**file), (*file)->path));
  }
  return absl::OkStatus();
}

// In a process of its own, which is in the cgroup from its first page on.
absl::Status InCgroup(int cgroup, const std::function<absl::Status()>& work) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) return ErrnoStatus("pipe");
  UniqueFd told(ends[0]);
  UniqueFd teller(ends[1]);
  clone_args args{};
  args.flags = CLONE_INTO_CGROUP;
  args.exit_signal = SIGCHLD;
  args.cgroup = static_cast<uint64_t>(cgroup);
  const pid_t pid = static_cast<pid_t>(syscall(SYS_clone3, &args, sizeof(args)));
  if (pid < 0) return CloneStatus(errno, "start a process in the function's cgroup");
  if (pid == 0) {
    const absl::Status status = work();
    const std::string text(status.message().substr(0, PIPE_BUF));
    (void)!write(teller.get(), text.data(), text.size());
    _exit(static_cast<int>(status.code()));
  }
  teller.Reset();
  std::string text(PIPE_BUF, 0);
  ssize_t length = 0;
  do {
    length = read(told.get(), text.data(), text.size());
  } while (length < 0 && errno == EINTR);
  int end = 0;
  while (waitpid(pid, &end, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(end)) {
    return absl::ResourceExhaustedError("the process that makes its private files was killed; raise the function's memory limit");
  }
  text.resize(length > 0 ? static_cast<size_t>(length) : 0);
  return absl::Status(static_cast<absl::StatusCode>(WEXITSTATUS(end)), text);
}

}  // namespace

absl::Status RestorePrivateFiles(const image::ProcessImageT& image, const PageSource& pages, const Sandbox* sandbox, int cgroup) {
  const auto file = std::find_if(image.private_files.begin(), image.private_files.end(), [](const auto& f) { return !IsRoot(*f); });
  const bool empty = file == image.private_files.end();
  if (sandbox == nullptr) {
    if (empty) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat((*file)->path, " was in a folder of its own sandbox, which is not made here; attach the template with moult-agent"));
  }
  // Whoever writes a page of tmpfs pays for it.
  if (empty || cgroup < 0) return Fill(image, pages, sandbox);
  return InCgroup(cgroup, [&] { return Fill(image, pages, sandbox); });
}

}  // namespace moult::engine
