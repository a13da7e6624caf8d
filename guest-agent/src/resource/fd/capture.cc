// SPDX-License-Identifier: Apache-2.0
#include "resource/fd/capture.h"

#include <algorithm>
#include <map>
#include <tuple>

#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "proc/read.h"
#include "resource/fd/kinds.h"
#include "resource/lock/capture.h"

namespace moult::engine {
namespace {

// Two descriptors can only share a description when these agree; kcmp decides among the few that do.
using ShareKey = std::tuple<uint64_t, uint64_t, uint64_t, uint32_t, int64_t>;

class Descriptors {
 public:
  explicit Descriptors(CaptureContext& context) : context_(context) {}

  absl::Status CaptureAll() {
    for (auto [dir, name] : {std::pair(&links_, "fd"), std::pair(&infos_, "fdinfo")}) {
      const std::string path = context_.ProcPath(name);
      dir->Reset(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      if (!dir->valid()) return ErrnoStatus(absl::StrCat("open ", path));
    }
    MOULT_ASSIGN_OR_RETURN(const std::vector<int> numbers, proc::ListNumeric(links_.get()));
    for (const int number : numbers) MOULT_RETURN_IF_ERROR(CaptureOne(number));
    // Kinds that refer to others (epoll sets, socket pairs) need all of them listed first.
    for (const OpenDescription& description : descriptions_) {
      MOULT_RETURN_IF_ERROR(Annotate(CaptureDescription(description), description.Name()));
    }
    for (const OpenDescription& description : descriptions_) close(description.fd);
    descriptions_.clear();
    return absl::OkStatus();
  }

  ~Descriptors() {
    for (const OpenDescription& description : descriptions_) close(description.fd);
  }

 private:
  absl::Status CaptureOne(int number) {
    UniqueFd fd(static_cast<int>(syscall(SYS_pidfd_getfd, context_.tracee.pidfd(), number, 0)));
    if (!fd.valid()) return ErrnoStatus(absl::StrCat("fd ", number, ": duplicate it"));
    const std::string name = absl::StrCat(number);
    OpenDescription description{};
    description.number = number;
    MOULT_ASSIGN_OR_RETURN(const std::string text, proc::ReadRecordAt(infos_.get(), name.c_str()));
    MOULT_ASSIGN_OR_RETURN(description.info, proc::ParseFdInfo(text));
    if (fstat(fd.get(), &description.st) < 0) return ErrnoStatus(absl::StrCat("fd ", number, ": stat"));
    auto entry = std::make_unique<image::FdT>();
    entry->number = number;
    entry->close_on_exec = (description.info.flags & O_CLOEXEC) != 0;
    const uint32_t flags = description.info.flags & ~static_cast<uint32_t>(O_CLOEXEC);
    // All eventfds have one inode, but each its number.
    const int64_t id = description.info.eventfd.has_value() ? int64_t{description.info.eventfd->id} : -1;
    const ShareKey key{description.st.st_dev, description.st.st_ino, description.info.pos, flags, id};
    auto& known = by_key_[key];
    MOULT_ASSIGN_OR_RETURN(const Place place, FindPlace(known, number));
    if (place.found) {
      entry->open_file = known[place.at].second;
      context_.process.fds.push_back(std::move(entry));
      return absl::OkStatus();
    }
    MOULT_ASSIGN_OR_RETURN(description.link, proc::ReadLinkAt(links_.get(), name.c_str()));
    description.flags = flags;
    description.index = static_cast<uint32_t>(context_.image.open_files.size());
    description.fd = fd.Release();
    entry->open_file = description.index;
    known.emplace(known.begin() + static_cast<ptrdiff_t>(place.at), number, description.index);
    context_.image.open_files.push_back(std::make_unique<image::OpenFileT>());
    context_.open_files.push_back({description.st.st_dev, description.st.st_ino, description.st.st_mode, description.flags});
    context_.process.fds.push_back(std::move(entry));
    descriptions_.push_back(std::move(description));
    return absl::OkStatus();
  }

  struct Place {
    size_t at;
    bool found;
  };

  // Where `number` belongs among descriptors of the same key, in the order that kcmp defines: thousands may
  // share one inode, and each comparison is a system call.
  absl::StatusOr<Place> FindPlace(const std::vector<std::pair<int, uint32_t>>& known, int number) {
    size_t low = 0;
    size_t high = known.size();
    while (low < high) {
      const size_t middle = (low + high) / 2;
      const long order = syscall(SYS_kcmp, context_.pid(), context_.pid(), KCMP_FILE, number, known[middle].first);
      if (order < 0) return ErrnoStatus(absl::StrCat("fd ", number, ": compare (kcmp)"));
      if (order == 0) return Place{middle, true};
      if (order == 3) return absl::InternalError(absl::StrCat("fd ", number, ": kcmp gives no order"));
      (order == 1 ? high : low) = order == 1 ? middle : middle + 1;
    }
    return Place{low, false};
  }

  absl::Status CaptureDescription(const OpenDescription& description) {
    image::OpenFileT& file = *context_.image.open_files[description.index];
    file.flags = description.flags;
    file.position = description.info.pos;
    if ((description.flags & O_PATH) == 0) MOULT_RETURN_IF_ERROR(CaptureOwner(description, file));
    MOULT_RETURN_IF_ERROR(CaptureLocks(context_, description, file));
    for (const FdKind& kind : FdKinds()) {
      if (kind.matches(description)) return kind.capture(context_, description, file);
    }
    return Refuse("this kind of descriptor cannot be saved", "close it before the dump");
  }

  absl::Status CaptureOwner(const OpenDescription& description, image::OpenFileT& file) {
    f_owner_ex owner{};
    if (fcntl(description.fd, F_GETOWN_EX, &owner) < 0) return ErrnoStatus("F_GETOWN_EX");
    const int sig = fcntl(description.fd, F_GETSIG);
    if (sig < 0) return ErrnoStatus("F_GETSIG");
    file.owner_signal = sig;
    if (owner.pid == 0) return absl::OkStatus();
    file.owner_type = owner.type;
    // As the process numbers itself, where that differs from what we see.
    if (owner.type == F_OWNER_PGRP) {
      if (owner.pid != context_.stat.pgrp) return Refuse(absl::StrCat("its signals go to process group ", owner.pid), "set F_SETOWN to the process itself");
      file.owner = context_.process.process_group;
      return absl::OkStatus();
    }
    const auto& traced = context_.tracee.threads();
    for (size_t i = 0; i < traced.size(); ++i) {
      if (traced[i].tid == owner.pid) {
        file.owner = context_.process.threads[i]->tid;
        return absl::OkStatus();
      }
    }
    return Refuse(absl::StrCat("its signals go to process ", owner.pid), "set F_SETOWN to the process itself");
  }

  CaptureContext& context_;
  UniqueFd links_;  // /proc/PID/fd
  UniqueFd infos_;  // /proc/PID/fdinfo
  std::map<ShareKey, std::vector<std::pair<int, uint32_t>>> by_key_;
  std::vector<OpenDescription> descriptions_;
};

}  // namespace

absl::Status CaptureDescriptors(CaptureContext& context) { return Descriptors(context).CaptureAll(); }

}  // namespace moult::engine
