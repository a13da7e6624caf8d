// SPDX-License-Identifier: Apache-2.0
//
// struct epoll_params of <linux/eventpoll.h> since Linux 6.9, which older headers lack.
#ifndef MOULT_RESOURCE_EPOLL_EPOLL_PARAMS_H_
#define MOULT_RESOURCE_EPOLL_EPOLL_PARAMS_H_

#include <sys/ioctl.h>

#include <cstdint>

namespace moult::engine {

struct EpollParams {
  uint32_t busy_poll_usecs;
  uint16_t busy_poll_budget;
  uint8_t prefer_busy_poll;
  uint8_t pad;  // must be 0
};
static_assert(sizeof(EpollParams) == 8);

inline constexpr unsigned long kEpollSetParams = _IOW(0x8A, 0x01, EpollParams);
inline constexpr unsigned long kEpollGetParams = _IOR(0x8A, 0x02, EpollParams);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_EPOLL_EPOLL_PARAMS_H_
