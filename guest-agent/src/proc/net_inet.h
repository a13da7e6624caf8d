// SPDX-License-Identifier: Apache-2.0
//
// /proc/net/{tcp,tcp6,udp,udp6,udplite,raw}, which share their first ten columns.
#ifndef MOULT_PROC_NET_INET_H_
#define MOULT_PROC_NET_INET_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace moult::proc {

struct InetEndpoint {
  int family = 0;                     // AF_INET or AF_INET6
  std::array<uint8_t, 16> address{};  // network byte order; the first 4 bytes for AF_INET
  uint16_t port = 0;                  // host byte order

  bool operator==(const InetEndpoint&) const = default;
  std::string ToString() const;  // "127.0.0.1:80", "[::1]:80"
};

inline constexpr uint32_t kTcpEstablished = 1;
inline constexpr uint32_t kTcpClose = 7;
inline constexpr uint32_t kTcpListen = 10;

struct InetSocketInfo {
  InetEndpoint local;
  InetEndpoint remote;
  uint32_t state = 0;     // TCP_*; UDP: kTcpEstablished when connected, else kTcpClose
  uint32_t tx_queue = 0;  // bytes
  uint32_t rx_queue = 0;  // bytes; connections waiting when listening
  uint32_t uid = 0;
  uint64_t inode = 0;  // 0: no longer owned by a descriptor (TIME_WAIT)
};

absl::StatusOr<std::vector<InetSocketInfo>> ParseNetInet(std::string_view text);

}  // namespace moult::proc

#endif  // MOULT_PROC_NET_INET_H_
