// SPDX-License-Identifier: Apache-2.0
#include <linux/kcmp.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>

#include "resource/epoll/epoll.h"
#include "resource/epoll/epoll_params.h"

namespace moult::engine {
namespace {

// Finds which of the process's descriptors an item watches.
class Targets {
 public:
  Targets(CaptureContext& context, int epoll_number) : context_(context), epoll_number_(epoll_number) {}

  absl::StatusOr<uint32_t> Find(const proc::EpollInfo& item) {
    // Items with the same number are told apart by their order, which is that of fdinfo.
    const uint32_t order = seen_[item.tfd]++;
    const auto& fds = context_.process.fds;
    const auto at = std::lower_bound(fds.begin(), fds.end(), item.tfd,
                                     [](const auto& entry, int number) { return entry->number < number; });
    if (at != fds.end() && (*at)->number == item.tfd) {
      MOULT_ASSIGN_OR_RETURN(const bool same, IsTarget((*at)->number, item.tfd, order));
      if (same) return (*at)->open_file;
    }
    MOULT_RETURN_IF_ERROR(ListDescriptions());
    for (const auto& [ino, entry] : descriptions_) {
      if (item.ino != 0 && ino != item.ino) continue;
      MOULT_ASSIGN_OR_RETURN(const bool same, IsTarget(entry->number, item.tfd, order));
      if (same) return entry->open_file;
    }
    return Refuse(absl::StrCat("it watches a file that was added as fd ", item.tfd, " and that the process has no descriptor of any more"),
                  "remove descriptors from the set (EPOLL_CTL_DEL) before they are closed or given away");
  }

 private:
  absl::StatusOr<bool> IsTarget(int number, int tfd, uint32_t order) const {
    const kcmp_epoll_slot slot{static_cast<uint32_t>(epoll_number_), static_cast<uint32_t>(tfd), order};
    const long result = syscall(SYS_kcmp, context_.pid(), context_.pid(), KCMP_EPOLL_TFD, number, &slot);
    if (result < 0) return ErrnoStatus(absl::StrCat("compare fd ", number, " with its item ", tfd, " (kcmp)"));
    return result == 0;
  }

  // One number for each description, with its inode.
  absl::Status ListDescriptions() {
    if (!descriptions_.empty()) return absl::OkStatus();
    std::set<uint32_t> listed;
    for (const auto& entry : context_.process.fds) {
      if (!listed.insert(entry->open_file).second) continue;
      struct stat st {};
      const std::string path = context_.ProcPath(absl::StrCat("fd/", entry->number));
      if (stat(path.c_str(), &st) < 0) return ErrnoStatus(absl::StrCat("stat ", path));
      descriptions_.emplace_back(st.st_ino, entry.get());
    }
    return absl::OkStatus();
  }

  CaptureContext& context_;
  const int epoll_number_;
  std::map<int, uint32_t> seen_;
  std::vector<std::pair<uint64_t, const image::FdT*>> descriptions_;
};

}  // namespace

bool MatchesEpoll(const OpenDescription& description) { return description.link == "anon_inode:[eventpoll]"; }

absl::Status CaptureEpoll(CaptureContext& context, const OpenDescription& description, image::OpenFileT& file) {
  image::EpollT resource;
  Targets targets(context, description.number);
  for (const proc::EpollInfo& seen : description.info.epoll) {
    auto item = std::make_unique<image::EpollItemT>();
    item->fd = seen.tfd;
    item->events = seen.events;
    item->data = seen.data;
    MOULT_ASSIGN_OR_RETURN(item->open_file, targets.Find(seen));
    resource.items.push_back(std::move(item));
  }
  EpollParams params{};
  // Kernels before 6.9 and those without busy polling do not know the call, and have nothing to keep.
  if (ioctl(description.fd, kEpollGetParams, &params) == 0 &&
      (params.busy_poll_usecs != 0 || params.busy_poll_budget != 0 || params.prefer_busy_poll != 0)) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(&params);
    resource.busy_poll.assign(bytes, bytes + sizeof(params));
  }
  file.resource.Set(std::move(resource));
  return absl::OkStatus();
}

}  // namespace moult::engine
