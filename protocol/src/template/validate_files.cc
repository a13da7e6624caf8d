// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <utility>

#include "validate_internal.h"

namespace moult::image::validate {
namespace {

constexpr uint64_t kMaxOffset = INT64_MAX;  // loff_t
constexpr uint64_t kMaxPipeCapacity = 1ull << 31;

absl::Status CheckPosition(const Path& at, const OpenFileT& file) {
  // Directories and devices are free to keep anything in it.
  if (file.position <= kMaxOffset) return absl::OkStatus();
  return at.BadField("position", file.position, " is over the limit");
}

absl::Status CheckObject(const Path& at, uint32_t index, const ProcessImageT& image, ObjectKind kind) {
  MOULT_RETURN_IF_ERROR(CheckIndex(at, "object", index, image.objects, "objects"));
  if (image.objects[index]->kind == kind) return absl::OkStatus();
  return at.BadField("object", index, " is not a ", EnumNameObjectKind(kind));
}

absl::Status CheckPipeEnd(const Path& at, const ProcessImageT& image, const PipeEndT& end) {
  MOULT_RETURN_IF_ERROR(CheckIndex(at, "pipe", end.pipe, image.pipes, "pipes"));
  if (!end.read_end && !end.write_end) return at.Bad("is neither a read end nor a write end");
  if (end.read_end && end.write_end && image.pipes[end.pipe]->fifo == kNone) {
    return at.Bad("is both ends, which only a FIFO can have");
  }
  return absl::OkStatus();
}

absl::Status CheckEpoll(const Path& at, const ProcessImageT& image, uint32_t self, const EpollT& epoll) {
  MOULT_RETURN_IF_ERROR(CheckCount(at, "items", epoll.items, static_cast<size_t>(kMaxFd)));
  std::vector<std::pair<int32_t, uint32_t>> keys;
  for (size_t i = 0; i < epoll.items.size(); ++i) {
    const EpollItemT& item = *epoll.items[i];
    const Path here(at, "items", i);
    if (item.fd < 0 || item.fd >= kMaxFd) return here.BadField("fd", item.fd, " is out of range");
    MOULT_RETURN_IF_ERROR(CheckIndex(here, "open_file", item.open_file, image.open_files, "open_files"));
    if (item.open_file == self) return here.BadField("open_file", item.open_file, " is the epoll itself");
    keys.emplace_back(item.fd, item.open_file);
  }
  // The kernel's key: the same number may be there again for another description, after a close.
  std::sort(keys.begin(), keys.end());
  const auto twice = std::adjacent_find(keys.begin(), keys.end());
  if (twice != keys.end()) {
    return at.BadField("items", "fd ", twice->first, " of open_files[", twice->second, "] is there twice");
  }
  if (epoll.busy_poll.size() > 64) return at.BadField("busy_poll", epoll.busy_poll.size(), " bytes, over 64");
  return absl::OkStatus();
}

absl::Status CheckTimerFd(const Path& at, const TimerFdT& timer) {
  constexpr int kClocks[] = {0, 1, 7, 8, 9};  // REALTIME, MONOTONIC, BOOTTIME, and the ALARMs
  if (std::find(std::begin(kClocks), std::end(kClocks), timer.clock) == std::end(kClocks)) {
    return at.BadField("clock", timer.clock, " has no timerfd");
  }
  if (timer.settime_flags > 3) {
    return at.BadField("settime_flags", timer.settime_flags, " has unknown bits");
  }
  if (timer.interval_ns > INT64_MAX || timer.remaining_ns > INT64_MAX)
    return at.Bad("is over the limit of time");
  return absl::OkStatus();
}

// Whole records of struct inotify_event: wd, mask, cookie, len, then len bytes of name.
absl::Status CheckInotifyEvents(const Path& at, const std::vector<uint8_t>& queued) {
  constexpr size_t kHeader = 16;
  size_t offset = 0;
  while (offset < queued.size()) {
    uint32_t length = 0;
    if (queued.size() - offset >= kHeader) std::memcpy(&length, queued.data() + offset + 12, sizeof(length));
    if (queued.size() - offset < kHeader || length > queued.size() - offset - kHeader) {
      return at.BadField("queued", "record at byte ", offset, " is cut off");
    }
    offset += kHeader + length;
  }
  return absl::OkStatus();
}

absl::Status CheckInotify(const Path& at, const ProcessImageT& image, const InotifyT& inotify) {
  MOULT_RETURN_IF_ERROR(CheckCount(at, "watches", inotify.watches, kMaxFiles));
  std::vector<int32_t> wds;
  for (size_t i = 0; i < inotify.watches.size(); ++i) {
    const InotifyWatchT& watch = *inotify.watches[i];
    const Path here(at, "watches", i);
    if (watch.wd < 1) return here.BadField("wd", watch.wd, " is not positive");
    if (watch.mask == 0) return here.BadField("mask", "empty");
    MOULT_RETURN_IF_ERROR(CheckIndex(here, "file", watch.file, image.files, "files"));
    wds.push_back(watch.wd);
  }
  std::sort(wds.begin(), wds.end());
  const auto twice = std::adjacent_find(wds.begin(), wds.end());
  if (twice != wds.end()) return at.BadField("watches", "wd ", *twice, " is there twice");
  return CheckInotifyEvents(at, inotify.queued);
}

absl::Status CheckResource(const Path& at, const ProcessImageT& image, uint32_t self, const OpenFileT& file) {
  const ResourceUnion& r = file.resource;
  switch (r.type) {
    case Resource::RegularFile:
      MOULT_RETURN_IF_ERROR(CheckPosition(at, file));
      return CheckFile(at, "file", r.AsRegularFile()->file, image, S_IFREG);
    case Resource::UnlinkedRegular:
      MOULT_RETURN_IF_ERROR(CheckPosition(at, file));
      return CheckObject(at, r.AsUnlinkedRegular()->object, image, ObjectKind::UnlinkedFile);
    case Resource::MemfdFile:
      MOULT_RETURN_IF_ERROR(CheckPosition(at, file));
      return CheckObject(at, r.AsMemfdFile()->object, image, ObjectKind::Memfd);
    case Resource::Directory:
      return CheckFile(at, "file", r.AsDirectory()->file, image, S_IFDIR);
    case Resource::Device: {
      const uint32_t index = r.AsDevice()->file;
      if (index < image.files.size() && S_ISBLK(image.files[index]->mode)) return absl::OkStatus();
      return CheckFile(at, "file", index, image, S_IFCHR);
    }
    case Resource::PathOnly:
      return CheckIndex(at, "file", r.AsPathOnly()->file, image.files, "files");
    case Resource::PipeEnd:
      return CheckPipeEnd(at, image, *r.AsPipeEnd());
    case Resource::EventFd:
      // The last value that write(2) can leave.
      if (r.AsEventFd()->count != UINT64_MAX) return absl::OkStatus();
      return at.BadField("count", r.AsEventFd()->count, " is over the limit");
    case Resource::Epoll:
      return CheckEpoll(at, image, self, *r.AsEpoll());
    case Resource::TimerFd:
      return CheckTimerFd(at, *r.AsTimerFd());
    case Resource::SignalFd:
      return absl::OkStatus();
    case Resource::Inotify:
      return CheckInotify(at, image, *r.AsInotify());
    case Resource::UnixSocket:
      return CheckSocket(at, image, self, *r.AsUnixSocket());
    case Resource::InetSocket:
      return CheckSocket(at, *r.AsInetSocket());
    case Resource::NONE:
      break;
  }
  return at.Bad("missing");
}

absl::Status CheckLocks(const Path& at, const OpenFileT& file) {
  MOULT_RETURN_IF_ERROR(CheckCount(at, "locks", file.locks, kMaxLocks));
  for (size_t i = 0; i < file.locks.size(); ++i) {
    const FileLockT& lock = *file.locks[i];
    const Path here(at, "locks", i);
    if (!InRange(lock.kind, LockKind::MAX)) {
      return here.BadField("kind", static_cast<int>(lock.kind), " is unknown");
    }
    if (lock.start > kMaxOffset || lock.length > kMaxOffset - lock.start + 1) {
      return here.Bad("is over the limit of offsets");
    }
  }
  return absl::OkStatus();
}

// 0 while not known; epolls that watch each other in a ring never get a depth, and stop at the limit.
absl::Status CheckEpollDepth(const Path& at, const ProcessImageT& image, uint32_t index, int level,
                             std::vector<int>* depths) {
  const EpollT* epoll = image.open_files[index]->resource.AsEpoll();
  if (epoll == nullptr || (*depths)[index] > 0) return absl::OkStatus();
  if (level > kMaxEpollDepth) {
    return Path(at, "open_files", index).Bad("epoll nests deeper than ", kMaxEpollDepth, ", or in a ring");
  }
  int depth = 1;
  for (const auto& item : epoll->items) {
    MOULT_RETURN_IF_ERROR(CheckEpollDepth(at, image, item->open_file, level + 1, depths));
    depth = std::max(depth, (*depths)[item->open_file] + 1);
  }
  if (depth > kMaxEpollDepth) {
    return Path(at, "open_files", index).Bad("epoll nests deeper than ", kMaxEpollDepth, ", or in a ring");
  }
  (*depths)[index] = depth;
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckText(const Path& at, const char* field, const std::string& text, size_t limit) {
  if (text.size() > limit) return at.BadField(field, text.size(), " bytes, over the limit of ", limit);
  if (text.find('\0') != std::string::npos) return at.BadField(field, "has a NUL byte");
  return absl::OkStatus();
}

absl::Status CheckFile(const Path& at, const char* field, uint32_t index, const ProcessImageT& image,
                       mode_t type) {
  MOULT_RETURN_IF_ERROR(CheckIndex(at, field, index, image.files, "files"));
  if ((image.files[index]->mode & S_IFMT) == type) return absl::OkStatus();
  const char* name = type == S_IFREG   ? "a regular file"
                     : type == S_IFDIR ? "a folder"
                     : type == S_IFIFO ? "a FIFO"
                                       : "a device";
  return at.BadField(field, index, " is not ", name, ": ", image.files[index]->path);
}

absl::Status CheckFiles(const Path& at, const ProcessImageT& image) {
  constexpr mode_t kTypes[] = {S_IFREG, S_IFDIR, S_IFCHR, S_IFBLK, S_IFIFO, S_IFLNK, S_IFSOCK};
  MOULT_RETURN_IF_ERROR(CheckCount(at, "files", image.files, kMaxFiles));
  for (size_t i = 0; i < image.files.size(); ++i) {
    const FileRefT& file = *image.files[i];
    const Path here(at, "files", i);
    MOULT_RETURN_IF_ERROR(CheckText(here, "path", file.path, kMaxPath));
    if (file.path.empty() || file.path[0] != '/') return here.BadField("path", "not absolute: ", file.path);
    const bool known =
        std::find(std::begin(kTypes), std::end(kTypes), file.mode & S_IFMT) != std::end(kTypes);
    if (!known || file.mode > 0177777) return here.BadField("mode", file.mode, " is no file's");
    if (file.size > kMaxOffset) return here.BadField("size", file.size, " is over the limit");
    if (!file.digest.empty() && file.digest.size() != 32) {
      return here.BadField("digest", file.digest.size(), " bytes, not 32");
    }
    if (!InRange(file.content, FileContent::MAX)) {
      return here.BadField("content", static_cast<int>(file.content), " is unknown");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckPipes(const Path& at, const ProcessImageT& image) {
  MOULT_RETURN_IF_ERROR(CheckCount(at, "pipes", image.pipes, kMaxPipes));
  for (size_t i = 0; i < image.pipes.size(); ++i) {
    const PipeBufferT& pipe = *image.pipes[i];
    const Path here(at, "pipes", i);
    if (pipe.fifo != kNone) MOULT_RETURN_IF_ERROR(CheckFile(here, "fifo", pipe.fifo, image, S_IFIFO));
    if (pipe.capacity == 0 || !PageAligned(pipe.capacity) || pipe.capacity > kMaxPipeCapacity) {
      return here.BadField("capacity", pipe.capacity, " is no pipe's");
    }
    MOULT_RETURN_IF_ERROR(CheckCount(here, "packets", pipe.packets, kMaxPipeCapacity / kPageSize));
    uint64_t bytes = 0;
    for (const auto& packet : pipe.packets) bytes += packet->data.size();
    if (bytes > pipe.capacity) {
      return here.BadField("packets", bytes, " bytes are over the capacity of ", pipe.capacity);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckOpenFiles(const Path& at, const ProcessImageT& image) {
  MOULT_RETURN_IF_ERROR(CheckCount(at, "open_files", image.open_files, kMaxOpenFiles));
  // All at once first: sockets look into each other.
  for (size_t i = 0; i < image.open_files.size(); ++i) {
    const ResourceUnion& resource = image.open_files[i]->resource;
    const Path here(at, "open_files", i);
    if (!InRange(resource.type, Resource::MAX)) {
      return here.BadField("resource_type", static_cast<int>(resource.type), " is unknown");
    }
    if (resource.type == Resource::NONE || resource.value == nullptr)
      return here.BadField("resource", "missing");
  }
  for (size_t i = 0; i < image.open_files.size(); ++i) {
    const OpenFileT& file = *image.open_files[i];
    const Path here(at, "open_files", i);
    if (file.owner_type < 0 || file.owner_type > 2) {
      return here.BadField("owner_type", file.owner_type, " is unknown");
    }
    if (file.owner_signal < 0 || file.owner_signal > 64) {
      return here.BadField("owner_signal", file.owner_signal, " is no signal");
    }
    MOULT_RETURN_IF_ERROR(CheckLocks(here, file));
    MOULT_RETURN_IF_ERROR(CheckResource(Path(here, "resource"), image, static_cast<uint32_t>(i), file));
  }
  std::vector<int> depths(image.open_files.size());
  for (size_t i = 0; i < image.open_files.size(); ++i) {
    MOULT_RETURN_IF_ERROR(CheckEpollDepth(at, image, static_cast<uint32_t>(i), 1, &depths));
  }
  return absl::OkStatus();
}

}  // namespace moult::image::validate
