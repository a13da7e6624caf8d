// SPDX-License-Identifier: Apache-2.0
#include "staging.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "moult/base/status.h"
#include "moult/protocol/limits.h"

namespace moult::image {
namespace {

// Memory content of a process: nobody but its owner may read it. Read-only, because a template never changes.
constexpr mode_t kFileMode = 0400;
constexpr mode_t kFolderMode = 0700;
constexpr char kPartial[] = ".partial-";

bool LacksNamelessFiles(int error) { return error == EOPNOTSUPP || error == EISDIR || error == EINVAL; }

absl::StatusOr<std::vector<std::string>> List(int fd) {
  const int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (copy < 0) return ErrnoStatus("open");
  DIR* stream = fdopendir(copy);
  if (stream == nullptr) {
    const int error = errno;
    close(copy);
    return ErrnoStatus(error, "opendir");
  }
  std::vector<std::string> names;
  while (const dirent* entry = readdir(stream)) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  closedir(stream);
  return names;
}

absl::StatusOr<bool> IsEmptyFolder(int fd) {
  MOULT_ASSIGN_OR_RETURN(const std::vector<std::string> names, List(fd));
  return names.empty();
}

// Whether `name` is the sibling folder that a process which is gone would have made for the target `base`.
bool IsOfDeadWriter(absl::string_view name, absl::string_view base) {
  int pid = 0;
  return absl::ConsumePrefix(&name, base) && absl::ConsumePrefix(&name, kPartial) &&
         absl::SimpleAtoi(name, &pid) && pid > 0 && name == absl::StrCat(pid) && kill(pid, 0) != 0 &&
         errno == ESRCH;
}

bool IsNamed(int folder, int parent, const std::string& name) {
  struct stat here;
  struct stat named;
  return fstat(folder, &here) == 0 && fstatat(parent, name.c_str(), &named, AT_SYMLINK_NOFOLLOW) == 0 &&
         here.st_dev == named.st_dev && here.st_ino == named.st_ino;
}

// Removes such a folder, when it holds nothing but files of a template. A writer that lives where we do not
// see its pid (another pid namespace) has it locked.
void RemoveLeftOver(int parent, const std::string& name) {
  const UniqueFd folder(openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat info;
  if (!folder.valid() || fstat(folder.get(), &info) != 0 || info.st_uid != geteuid()) return;
  if (flock(folder.get(), LOCK_EX | LOCK_NB) != 0) return;
  // Its writer may have been done between our open and the lock: then it is a template by now.
  if (!IsNamed(folder.get(), parent, name)) return;
  const absl::StatusOr<std::vector<std::string>> files = List(folder.get());
  const auto ours = [](const std::string& file) {
    return file == kManifestFile || file == kImageFile || file == kPagesFile;
  };
  if (!files.ok() || !std::all_of(files->begin(), files->end(), ours)) return;
  for (const std::string& file : *files) unlinkat(folder.get(), file.c_str(), 0);
  unlinkat(parent, name.c_str(), AT_REMOVEDIR);
}

bool IsMountPoint(int fd) {
  struct statx info;
  // STATX_ATTR_MOUNT_ROOT is there since Linux 5.8; before, rename(2) says EBUSY and nothing is lost.
  return statx(fd, "", AT_EMPTY_PATH, STATX_TYPE, &info) == 0 &&
         (info.stx_attributes & info.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT) != 0;
}

absl::StatusOr<std::string> RealPath(const std::string& path) {
  char* real = realpath(path.c_str(), nullptr);
  if (real == nullptr) return ErrnoStatus(absl::StrCat("resolve ", path));
  std::string result = real;
  std::free(real);
  return result;
}

// `path` without slashes at its end (but "/" stays).
std::string_view Trim(std::string_view path) {
  while (path.size() > 1 && path.back() == '/') path.remove_suffix(1);
  return path;
}

std::pair<std::string, std::string> Split(std::string_view path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string_view::npos) return {".", std::string(path)};
  return {std::string(path.substr(0, slash == 0 ? 1 : slash)), std::string(path.substr(slash + 1))};
}

}  // namespace

absl::StatusOr<std::unique_ptr<Staging>> Staging::Open(const std::string& dir, bool nameless) {
  if (dir.empty()) return absl::InvalidArgumentError("the folder's name is empty; name a new folder");
  const std::string_view trimmed = Trim(dir);
  struct stat info;
  const bool exists = stat(dir.c_str(), &info) == 0;
  if (!exists && errno != ENOENT) return ErrnoStatus("stat");
  if (exists && !S_ISDIR(info.st_mode)) {
    return absl::FailedPreconditionError("is not a folder; name a new folder");
  }
  struct stat link;
  if (!exists && lstat(std::string(trimmed).c_str(), &link) == 0) {
    return absl::FailedPreconditionError("is a symbolic link to nothing; remove it or name a new folder");
  }
  // An existing DIR is resolved, so that a link to it stays a link.
  std::string real(trimmed);
  if (exists) {
    MOULT_ASSIGN_OR_RETURN(real, RealPath(real));
  }
  auto [parent, base] = Split(real);
  if (!exists) {
    auto real_parent = RealPath(parent);
    if (!real_parent.ok()) return Annotate(real_parent.status(), "parent folder");
    parent = *std::move(real_parent);
  }
  std::unique_ptr<Staging> staging(new Staging(dir, parent, base));
  // Replacing a folder that somebody stands in would leave him in one that is deleted.
  const std::string last = Split(trimmed).second;
  if (last.empty() || last == "." || last == "..") staging->rename_ = false;
  staging->nameless_ = nameless;
  MOULT_RETURN_IF_ERROR(staging->OpenTarget(exists));
  return staging;
}

absl::Status Staging::OpenTarget(bool exists) {
  if (exists) {
    target_ = UniqueFd(open(dir_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!target_.valid()) return ErrnoStatus("open");
    MOULT_ASSIGN_OR_RETURN(const bool empty, IsEmptyFolder(target_.get()));
    if (!empty) return absl::FailedPreconditionError("is not empty; name a new or an empty folder");
    if (IsMountPoint(target_.get())) rename_ = false;
  }
  if (rename_) {
    parent_ = UniqueFd(open(parent_path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!parent_.valid()) return ErrnoStatus(absl::StrCat("open parent folder ", parent_path_));
    if (faccessat(parent_.get(), ".", W_OK | X_OK, AT_EACCESS) == 0) {
      SweepLeftOvers();
      return absl::OkStatus();
    }
    if (!exists) return ErrnoStatus(absl::StrCat("write to parent folder ", parent_path_));
    rename_ = false;
  }
  if (faccessat(target_.get(), ".", W_OK | X_OK, AT_EACCESS) != 0) return ErrnoStatus("write to folder");
  return absl::OkStatus();
}

void Staging::SweepLeftOvers() {
  const absl::StatusOr<std::vector<std::string>> names = List(parent_.get());
  if (!names.ok()) return;  // a folder that may be written to and not be read
  for (const std::string& name : *names) {
    if (IsOfDeadWriter(name, base_)) RemoveLeftOver(parent_.get(), name);
  }
}

absl::Status Staging::MakePartial() {
  if (partial_.valid()) return absl::OkStatus();
  // The name may be taken by what an earlier process of the same pid left when it was killed.
  for (int attempt = 0; attempt < 100; ++attempt) {
    partial_name_ = absl::StrCat(base_, kPartial, getpid(), attempt == 0 ? "" : absl::StrCat("-", attempt));
    if (mkdirat(parent_.get(), partial_name_.c_str(), kFolderMode) == 0) {
      partial_ = UniqueFd(openat(parent_.get(), partial_name_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      if (partial_.valid()) {
        // Tells that its writer lives (RemoveLeftOver). Where there are no locks, nobody sweeps either.
        flock(partial_.get(), LOCK_EX | LOCK_NB);
        // Who swept just before that took it for a dead writer's.
        if (IsNamed(partial_.get(), parent_.get(), partial_name_)) return absl::OkStatus();
        partial_.Reset();
        continue;
      }
      const int error = errno;
      unlinkat(parent_.get(), partial_name_.c_str(), AT_REMOVEDIR);
      return ErrnoStatus(error, absl::StrCat("open ", partial_name_));
    }
    if (errno != EEXIST) break;
  }
  return ErrnoStatus(absl::StrCat("mkdir ", partial_name_, " in ", parent_path_));
}

absl::StatusOr<int> Staging::NamedFolder() {
  if (!rename_) return target_.get();
  MOULT_RETURN_IF_ERROR(MakePartial());
  return partial_.get();
}

absl::StatusOr<UniqueFd> Staging::CreateFile(const char* name) {
  UniqueFd fd;
  bool named = false;
  if (nameless_) {
    const int folder = rename_ ? parent_.get() : target_.get();
    fd = UniqueFd(openat(folder, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, kFileMode));
    if (!fd.valid() && !LacksNamelessFiles(errno)) return ErrnoStatus(absl::StrCat(name, ": make"));
    nameless_ = fd.valid();
  }
  if (!fd.valid()) {
    MOULT_ASSIGN_OR_RETURN(const int folder, NamedFolder());
    fd = UniqueFd(openat(folder, name, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, kFileMode));
    if (!fd.valid()) return ErrnoStatus(absl::StrCat(name, ": make"));
    named = true;
  }
  UniqueFd copy(fcntl(fd.get(), F_DUPFD_CLOEXEC, 3));
  if (!copy.valid()) {
    const int error = errno;
    if (named) unlinkat(*NamedFolder(), name, 0);
    return ErrnoStatus(error, absl::StrCat(name, ": dup"));
  }
  files_.push_back({name, std::move(copy), named});
  return fd;
}

absl::Status Staging::LinkInto(File* file, int folder) {
  if (file->named) return absl::OkStatus();
  // By /proc, because AT_EMPTY_PATH asks for CAP_DAC_READ_SEARCH; but a container may have no /proc.
  const std::string path = absl::StrCat("/proc/self/fd/", file->fd.get());
  if (linkat(AT_FDCWD, path.c_str(), folder, file->name.c_str(), AT_SYMLINK_FOLLOW) != 0 &&
      (errno != ENOENT || linkat(file->fd.get(), "", folder, file->name.c_str(), AT_EMPTY_PATH) != 0)) {
    return ErrnoStatus(absl::StrCat(file->name, ": link"));
  }
  file->named = true;
  return absl::OkStatus();
}

absl::Status Staging::Publish() {
  // Content first, so that whatever is ever seen under its name is whole, even after a power cut.
  for (const File& file : files_) {
    if (fsync(file.fd.get()) != 0) return ErrnoStatus(absl::StrCat(file.name, ": fsync"));
  }
  MOULT_ASSIGN_OR_RETURN(const int folder, NamedFolder());
  if (!rename_) {
    MOULT_ASSIGN_OR_RETURN(const bool empty, IsEmptyFolder(folder));
    if (!empty && nameless_) {
      return absl::FailedPreconditionError("is no longer empty; name a new or an empty folder");
    }
  }
  for (size_t i = 0; i < files_.size(); ++i) {
    // In place: the others must be on disk before the manifest, which makes them a template.
    if (!rename_ && i + 1 == files_.size() && fsync(folder) != 0) return ErrnoStatus("fsync");
    MOULT_RETURN_IF_ERROR(LinkInto(&files_[i], folder));
  }
  if (fsync(folder) != 0) return ErrnoStatus("fsync");
  if (rename_) MOULT_RETURN_IF_ERROR(Rename());
  published_ = true;
  return absl::OkStatus();
}

absl::Status Staging::Rename() {
  struct stat info;
  if (target_.valid() && fstat(target_.get(), &info) == 0) {
    // The folder that the caller had prepared keeps its owner and mode.
    if (fchown(partial_.get(), info.st_uid, info.st_gid) != 0 && errno != EPERM) return ErrnoStatus("chown");
    if (fchmod(partial_.get(), info.st_mode & 07777) != 0) return ErrnoStatus("chmod");
  }
  if (renameat(parent_.get(), partial_name_.c_str(), parent_.get(), base_.c_str()) == 0) {
    if (fsync(parent_.get()) == 0) return absl::OkStatus();
    const absl::Status status = ErrnoStatus(absl::StrCat("fsync parent folder ", parent_path_));
    // Not known to last: take it back, as every failure does.
    if (renameat(parent_.get(), base_.c_str(), parent_.get(), partial_name_.c_str()) == 0 &&
        target_.valid()) {
      mkdirat(parent_.get(), base_.c_str(), info.st_mode & 07777);
    }
    return status;
  }
  if (errno == ENOTEMPTY || errno == EEXIST || errno == ENOTDIR) {
    return absl::FailedPreconditionError("was made or filled meanwhile; name a new or an empty folder");
  }
  if (errno != EBUSY || !target_.valid()) return ErrnoStatus(absl::StrCat("rename ", partial_name_));
  // DIR became a mount point, or the kernel could not say that it was one: move the files, manifest last.
  for (size_t i = 0; i < files_.size(); ++i) {
    const char* name = files_[i].name.c_str();
    if (renameat(partial_.get(), name, target_.get(), name) != 0) {
      const absl::Status status = ErrnoStatus(absl::StrCat(name, ": move into the folder"));
      for (size_t j = 0; j < i; ++j) unlinkat(target_.get(), files_[j].name.c_str(), 0);
      return status;
    }
  }
  unlinkat(parent_.get(), partial_name_.c_str(), AT_REMOVEDIR);
  if (fsync(target_.get()) != 0) return ErrnoStatus("fsync");
  return absl::OkStatus();
}

void Staging::RemoveAll() {
  const int folder = rename_ ? partial_.get() : target_.get();
  // The manifest goes first: what is left of a failure in the middle is not a template.
  for (auto file = files_.rbegin(); file != files_.rend(); ++file) {
    if (file->named) unlinkat(folder, file->name.c_str(), 0);
  }
  if (partial_.valid()) unlinkat(parent_.get(), partial_name_.c_str(), AT_REMOVEDIR);
}

Staging::~Staging() {
  if (!published_) RemoveAll();
}

}  // namespace moult::image
