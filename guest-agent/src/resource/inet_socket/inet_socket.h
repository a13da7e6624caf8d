// SPDX-License-Identifier: Apache-2.0
//
// TCP and UDP over IPv4 and IPv6. Listening, bound and fresh sockets come back as they were; a TCP connection
// comes back closed (reads give end of file, writes EPIPE with SIGPIPE), since its other end cannot be brought along.
// Programs that choose among SO_REUSEPORT sockets, and an IP_MULTICAST_IF that was given as an interface's number, are
// not shown by the kernel and are not kept.
#ifndef MOULT_RESOURCE_INET_SOCKET_INET_SOCKET_H_
#define MOULT_RESOURCE_INET_SOCKET_INET_SOCKET_H_

#include <string>

#include "resource/fd/kinds.h"

namespace moult::engine {

bool MatchesInetSocket(const OpenDescription& description);
absl::Status CaptureInetSocket(CaptureContext& context, const OpenDescription& description, image::OpenFileT& file);
absl::StatusOr<UniqueFd> RestoreInetSocket(RestoreContext& context, uint32_t index);

// Whether who connects to `port` of 127.0.0.1 reaches a socket that is bound so.
bool ReachableAt(const image::InetSocketT& socket, uint16_t port);

// "127.0.0.1:80", "[::1]:80"; `bytes` is a struct sockaddr.
std::string FormatInetAddress(const std::vector<uint8_t>& bytes);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_INET_SOCKET_INET_SOCKET_H_
