// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>


#include "resource/inotify/inotify.h"

namespace moult::engine {
namespace {

// INOTIFY_IOC_SETNEXTWD of <linux/inotify.h> since Linux 4.17, in kernels with CONFIG_CHECKPOINT_RESTORE.
constexpr unsigned long kSetNextWd = _IOW('I', 0, int32_t);
constexpr int kMaxSpentNumbers = 10'000;

// What inotify_add_watch(2) takes; fdinfo adds the kernel's own bits (IN_UNMOUNT, IN_IGNORED, ...).
constexpr uint32_t kMask = IN_ALL_EVENTS | IN_EXCL_UNLINK | IN_ONESHOT;

absl::StatusOr<int> AddWatch(int inotify, const std::string& path, uint32_t mask) {
  const int wd = inotify_add_watch(inotify, path.c_str(), mask);
  if (wd >= 0) return wd;
  const int error = errno;
  const absl::Status status = ErrnoStatus(error, absl::StrCat("watch ", path));
  if (error != ENOSPC) return status;
  return WithRemedy(status, "raise /proc/sys/fs/inotify/max_user_watches");
}

// Numbers are given out rising, and never twice: spend those in between.
absl::Status SpendNumbers(int inotify, const std::string& path, int wanted) {
  for (int spent = 0; spent < kMaxSpentNumbers; ++spent) {
    MOULT_ASSIGN_OR_RETURN(const int wd, AddWatch(inotify, path, IN_MOVE_SELF));
    if (inotify_rm_watch(inotify, wd) < 0) return ErrnoStatus(absl::StrCat("remove watch ", wd));
    if (wd + 1 >= wanted) break;
  }
  // Each removal has queued an IN_IGNORED, which the process must not see.
  char events[4096];
  int queued = 0;
  while (ioctl(inotify, FIONREAD, &queued) == 0 && queued > 0) {
    if (read(inotify, events, sizeof(events)) < 0) return ErrnoStatus("read");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<UniqueFd> RestoreInotify(RestoreContext& context, uint32_t index) {
  const image::InotifyT& saved = *context.open_file(index).resource.AsInotify();
  UniqueFd fd(inotify_init1(IN_CLOEXEC));
  if (!fd.valid()) {
    const int error = errno;
    const absl::Status status = ErrnoStatus(error, "inotify_init");
    if (error != EMFILE) return status;
    return WithRemedy(status, "raise the limit of open files (ulimit -n), or /proc/sys/fs/inotify/max_user_instances");
  }
  std::vector<const image::InotifyWatchT*> watches;
  for (const auto& watch : saved.watches) watches.push_back(watch.get());
  std::sort(watches.begin(), watches.end(), [](const auto* a, const auto* b) { return a->wd < b->wd; });
  int next = 1;
  for (const image::InotifyWatchT* watch : watches) {
    // Through a descriptor, so that it is the very file that was checked.
    MOULT_ASSIGN_OR_RETURN(const UniqueFd target, OpenFileRef(context.file(watch->file), O_PATH));
    const std::string path = absl::StrCat("/proc/self/fd/", target.get());
    if (watch->wd != next) {
      const int32_t wanted = watch->wd;
      if (ioctl(fd.get(), kSetNextWd, wanted) < 0) MOULT_RETURN_IF_ERROR(SpendNumbers(fd.get(), path, wanted));
    }
    const absl::StatusOr<int> wd = AddWatch(fd.get(), path, watch->mask & kMask);
    if (!wd.ok()) return Annotate(wd.status(), context.file(watch->file).path);
    if (*wd != watch->wd) {
      return Refuse(absl::StrCat("watch ", watch->wd, " on ", context.file(watch->file).path, " came back as ", *wd),
                    "restore on a kernel with CONFIG_CHECKPOINT_RESTORE");
    }
    next = *wd + 1;
  }
  return fd;
}

}  // namespace moult::engine
