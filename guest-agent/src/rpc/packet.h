// SPDX-License-Identifier: Apache-2.0
//
// Packets with descriptors, between processes of the agent over sockets of kind SOCK_SEQPACKET.
#ifndef MOULT_RPC_PACKET_H_
#define MOULT_RPC_PACKET_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/types/span.h"
#include "moult/base/status.h"
#include "moult/base/unique_fd.h"

namespace moult::agent {

inline constexpr size_t kMaxPacketFds = 8;

struct Packet {
  std::string bytes;
  std::vector<UniqueFd> fds;
};

// Does not wait. kUnavailable: the other end has gone, or takes no more.
absl::Status SendPacket(int socket, std::string_view bytes, absl::Span<const int> fds);
// Does not wait. Nullopt: none is there. kCancelled: the other end has gone. kResourceExhausted: longer than `size`, or
// there were no descriptors left for those that came.
absl::StatusOr<std::optional<Packet>> ReceivePacket(int socket, size_t size);

}  // namespace moult::agent

#endif  // MOULT_RPC_PACKET_H_
