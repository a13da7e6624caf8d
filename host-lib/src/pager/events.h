// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_HOST_PAGER_EVENTS_H_
#define MOULT_HOST_PAGER_EVENTS_H_

#include <sys/epoll.h>

#include <cstdint>

#include "moult/base/status.h"

namespace moult::host {

inline constexpr uint32_t kMostNeighbours = 255;

// What a thread in Serve waits for.
enum class Event : uint32_t { kStop, kTimer, kFault, kJobs };

// With `once` one thread wakes for each time that it becomes readable, and who reads reads all.
inline absl::Status AddEvent(int epoll, int fd, Event event, bool once) {
  epoll_event entry = {};
  entry.events = once ? EPOLLIN | static_cast<uint32_t>(EPOLLET) : EPOLLIN;
  entry.data.u32 = static_cast<uint32_t>(event);
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &entry) == 0) return absl::OkStatus();
  return ErrnoStatus("pager: epoll_ctl");
}

}  // namespace moult::host

#endif  // MOULT_HOST_PAGER_EVENTS_H_
