// SPDX-License-Identifier: Apache-2.0
//
// /proc/net/igmp and /proc/net/igmp6: the multicast groups that anybody on the machine has joined, by interface. Not
// there in kernels without CONFIG_IP_MULTICAST, or without IPv6.
#ifndef MOULT_PROC_NET_MULTICAST_H_
#define MOULT_PROC_NET_MULTICAST_H_

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace moult::proc {

struct MulticastGroup {
  uint32_t interface = 0;             // its number
  int family = 0;                     // AF_INET or AF_INET6
  std::array<uint8_t, 16> address{};  // network byte order; the first 4 bytes for AF_INET

  bool operator==(const MulticastGroup&) const = default;
};

absl::StatusOr<std::vector<MulticastGroup>> ParseIgmp(std::string_view text);
absl::StatusOr<std::vector<MulticastGroup>> ParseIgmp6(std::string_view text);

}  // namespace moult::proc

#endif  // MOULT_PROC_NET_MULTICAST_H_
