// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "proc/read.h"
#include "resource/epoll/epoll.h"
#include "resource/epoll/epoll_params.h"

namespace moult::engine {
namespace {

// EP_PRIVATE_BITS of the kernel: all that is left of an EPOLLONESHOT item that has fired. Any other item has
// EPOLLERR and EPOLLHUP, which the kernel adds.
constexpr uint32_t kPrivateBits = EPOLLWAKEUP | EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE;

bool HasFired(const image::EpollItemT& item) { return (item.events & ~kPrivateBits) == 0; }

absl::Status Control(int epoll, int operation, const image::EpollItemT& item, uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = item.data;
  if (epoll_ctl(epoll, operation, item.fd, &event) == 0) return absl::OkStatus();
  const int error = errno;
  const absl::Status status = ErrnoStatus(error, absl::StrFormat("put fd %d with events %#x into the set", item.fd, events));
  return error == ENOSPC ? WithRemedy(status, "raise /proc/sys/fs/epoll/max_user_watches") : status;
}

// Runs `body` while item.fd is the number of the item's file, as it was when the process added it.
template <typename Body>
absl::Status WithNumber(RestoreContext& context, const image::EpollItemT& item, Body body) {
  const auto& fds = context.process.fds;
  const auto at = std::lower_bound(fds.begin(), fds.end(), item.fd,
                                   [](const auto& entry, int number) { return entry->number < number; });
  if (at != fds.end() && (*at)->number == item.fd && (*at)->open_file == item.open_file) return body();
  // Borrowed. Above the function's range it may be one of ours, so whatever is there comes back.
  const int flags = fcntl(item.fd, F_GETFD);
  UniqueFd aside;
  if (flags >= 0) {
    aside.Reset(fcntl(item.fd, F_DUPFD_CLOEXEC, std::max(context.first_free_fd, item.fd + 1)));
    if (!aside.valid()) return ErrnoStatus(absl::StrCat("put fd ", item.fd, " aside"));
  }
  int source = context.open_files[item.open_file].get();
  if (source == item.fd) return body();
  if (dup3(source, item.fd, O_CLOEXEC) < 0) return ErrnoStatus(absl::StrCat("use fd ", item.fd, " for a moment"));
  const absl::Status status = body();
  if (!aside.valid()) {
    close(item.fd);
  } else if (dup3(aside.get(), item.fd, (flags & FD_CLOEXEC) != 0 ? O_CLOEXEC : 0) < 0) {
    return ErrnoStatus(absl::StrCat("put fd ", item.fd, " back"));
  }
  return status;
}

// The kernel has no call for "has fired": an item comes to it by firing. So these go in alone, asking for
// everything, and what is ready fires. An item that is not ready stays in with errors and hang-ups only, and
// may report one of those where the captured one would not have.
absl::Status AddFired(RestoreContext& context, int epoll, const std::vector<const image::EpollItemT*>& items) {
  for (const image::EpollItemT* item : items) {
    MOULT_RETURN_IF_ERROR(WithNumber(context, *item, [&] {
      return Control(epoll, EPOLL_CTL_ADD, *item, item->events | EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP);
    }));
  }
  std::vector<epoll_event> events(items.size());
  int count;
  int rounds = 0;
  size_t fired = 0;
  do {
    count = epoll_wait(epoll, events.data(), static_cast<int>(events.size()), 0);
    if (count < 0 && errno != EINTR) return ErrnoStatus("epoll_wait");
    fired += static_cast<size_t>(std::max(count, 0));
  } while (count != 0 && ++rounds < 100);
  if (fired >= items.size()) return absl::OkStatus();
  // Which ones have not is not said by data, which need not be unique; fired ones read so in fdinfo.
  MOULT_ASSIGN_OR_RETURN(const std::string text, proc::ReadFile(absl::StrCat("/proc/self/fdinfo/", epoll)));
  MOULT_ASSIGN_OR_RETURN(const proc::FdInfo info, proc::ParseFdInfo(text));
  for (const image::EpollItemT* item : items) {
    const bool waiting = std::any_of(info.epoll.begin(), info.epoll.end(), [&](const proc::EpollInfo& seen) {
      return seen.tfd == item->fd && (seen.events & ~kPrivateBits) != 0;
    });
    if (!waiting) continue;
    MOULT_RETURN_IF_ERROR(
        WithNumber(context, *item, [&] { return Control(epoll, EPOLL_CTL_MOD, *item, item->events); }));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<UniqueFd> RestoreEpoll(RestoreContext& context, uint32_t index) {
  const auto& resource = *context.open_file(index).resource.AsEpoll();
  UniqueFd fd(epoll_create1(EPOLL_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus("epoll_create");
  EpollParams params{};
  if (resource.busy_poll.size() == sizeof(params)) {
    std::memcpy(&params, resource.busy_poll.data(), sizeof(params));
    if (ioctl(fd.get(), kEpollSetParams, &params) < 0) return ErrnoStatus("set its busy polling (EPIOCSPARAMS)");
  }
  return fd;
}

absl::Status FinishEpoll(RestoreContext& context, uint32_t index) {
  const auto& resource = *context.open_file(index).resource.AsEpoll();
  const int epoll = context.open_files[index].get();
  std::vector<const image::EpollItemT*> fired;
  for (const auto& item : resource.items) {
    if (HasFired(*item)) fired.push_back(item.get());
  }
  if (!fired.empty()) MOULT_RETURN_IF_ERROR(AddFired(context, epoll, fired));
  for (const auto& item : resource.items) {
    if (HasFired(*item)) continue;
    MOULT_RETURN_IF_ERROR(
        WithNumber(context, *item, [&] { return Control(epoll, EPOLL_CTL_ADD, *item, item->events); }));
  }
  return absl::OkStatus();
}

}  // namespace moult::engine
