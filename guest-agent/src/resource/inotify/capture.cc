// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstring>

#include "absl/strings/match.h"
#include "proc/mountinfo.h"
#include "proc/read.h"
#include "resource/inotify/inotify.h"

namespace moult::engine {
namespace {

// Finds names for what is watched: fdinfo gives a file handle only.
class Names {
 public:
  explicit Names(CaptureContext& context) : context_(context) {}

  // The path, in the process's root, of the file that `watch` is on; its stat in `st`.
  absl::StatusOr<std::string> Find(const proc::InotifyInfo& watch, struct stat* st) {
    if (watch.fhandle.empty() || watch.fhandle.size() > MAX_HANDLE_SZ) {
      return Refuse(absl::StrCat("its watch ", watch.wd, " is on a file system without file handles"), "watch files of another file system");
    }
    MOULT_RETURN_IF_ERROR(ReadMounts());
    absl::Status denied = absl::OkStatus();
    for (const proc::MountInfo& mount : mounts_) {
      if (((mount.dev_major << 20) | mount.dev_minor) != watch.sdev) continue;
      const UniqueFd fd(open(absl::StrCat(Root(), mount.mount_point).c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
      if (!fd.valid()) continue;
      const UniqueFd target(OpenHandle(fd.get(), watch));
      if (!target.valid()) {
        if (errno == EPERM) denied = absl::PermissionDeniedError("open the watched file by its handle: EPERM; run with CAP_DAC_READ_SEARCH");
        continue;
      }
      absl::StatusOr<std::string> path = NameIn(mount, fd.get(), target.get(), st);
      if (path.ok()) return path;
    }
    MOULT_RETURN_IF_ERROR(denied);
    return Refuse(absl::StrCat("what its watch ", watch.wd, " is on (inode ", watch.ino, ") has no name any more"),
                  "remove the watch (inotify_rm_watch) or put the file back");
  }

 private:
  std::string Root() const { return context_.ProcPath("root"); }

  absl::Status ReadMounts() {
    if (!mounts_.empty()) return absl::OkStatus();
    MOULT_ASSIGN_OR_RETURN(const std::string text, proc::ReadFile(context_.ProcPath("mountinfo")));
    MOULT_ASSIGN_OR_RETURN(mounts_, proc::ParseMountInfo(text));
    return absl::OkStatus();
  }

  static int OpenHandle(int mount_fd, const proc::InotifyInfo& watch) {
    alignas(file_handle) char buffer[sizeof(file_handle) + MAX_HANDLE_SZ] = {};
    auto* handle = reinterpret_cast<file_handle*>(buffer);
    handle->handle_bytes = static_cast<unsigned>(watch.fhandle.size());
    handle->handle_type = watch.fhandle_type;
    std::memcpy(handle->f_handle, watch.fhandle.data(), watch.fhandle.size());
    return open_by_handle_at(mount_fd, handle, O_PATH | O_CLOEXEC);
  }

  // The kernel names the file in the mount of `mount_fd`, as we see that mount: with the mount's own name for
  // us in front, which gives way to the process's.
  absl::StatusOr<std::string> NameIn(const proc::MountInfo& mount, int mount_fd, int target, struct stat* st) const {
    MOULT_ASSIGN_OR_RETURN(const std::string base, proc::ReadLink(absl::StrCat("/proc/self/fd/", mount_fd)));
    MOULT_ASSIGN_OR_RETURN(const std::string name, proc::ReadLink(absl::StrCat("/proc/self/fd/", target)));
    if (fstat(target, st) < 0) return ErrnoStatus(absl::StrCat("stat ", name));
    std::string path = name;
    if (base != "/" && absl::StartsWith(name, base)) {
      path = absl::StrCat(mount.mount_point == "/" ? "" : mount.mount_point, name.substr(base.size()));
      if (path.empty()) path = "/";
    } else if (base == "/" && mount.mount_point != "/") {
      path = absl::StrCat(mount.mount_point, name == "/" ? "" : name);
    }
    struct stat named {};
    if (stat(absl::StrCat(Root(), path).c_str(), &named) < 0) return ErrnoStatus(absl::StrCat("stat ", path));
    if (named.st_dev != st->st_dev || named.st_ino != st->st_ino) return absl::NotFoundError(path);
    return path;
  }

  CaptureContext& context_;
  std::vector<proc::MountInfo> mounts_;
};

}  // namespace

bool MatchesInotify(const OpenDescription& description) {
  return description.link == "anon_inode:inotify" || description.link == "anon_inode:[inotify]";
}

absl::Status CaptureInotify(CaptureContext& context, const OpenDescription& description, image::OpenFileT& file) {
  int unread = 0;
  if (ioctl(description.fd, FIONREAD, &unread) < 0) return ErrnoStatus("FIONREAD");
  if (unread > 0) {
    return absl::UnavailableError(
        absl::StrCat("it has ", unread, " unread bytes of events, which cannot be saved; let the program read them and try again"));
  }
  image::InotifyT resource;
  Names names(context);
  for (const proc::InotifyInfo& seen : description.info.inotify) {
    auto watch = std::make_unique<image::InotifyWatchT>();
    watch->wd = seen.wd;
    watch->mask = seen.mask;
    struct stat st {};
    MOULT_ASSIGN_OR_RETURN(const std::string path, names.Find(seen, &st));
    MOULT_ASSIGN_OR_RETURN(watch->file, context.files.Add(path, st, image::FileContent::Any, "watched file"));
    resource.watches.push_back(std::move(watch));
  }
  file.resource.Set(std::move(resource));
  return absl::OkStatus();
}

}  // namespace moult::engine
