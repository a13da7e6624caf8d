// SPDX-License-Identifier: Apache-2.0
#include <sys/socket.h>

#include <cstring>

#include "validate_internal.h"

namespace moult::image::validate {
namespace {

absl::Status CheckOptions(const Path& at, const std::vector<std::unique_ptr<SocketOptionT>>& options) {
  MOULT_RETURN_IF_ERROR(CheckCount(at, "options", options, kMaxSocketOptions));
  for (size_t i = 0; i < options.size(); ++i) {
    const size_t size = options[i]->value.size();
    if (size == 0 || size > kMaxOptionBytes) {
      return Path(at, "options", i).BadField("value", size, " bytes, not from 1 to ", kMaxOptionBytes);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckSunPath(const Path& at, const char* field, const std::vector<uint8_t>& path) {
  if (path.size() <= kMaxSunPath) return absl::OkStatus();
  return at.BadField(field, path.size(), " bytes, over the limit of ", kMaxSunPath);
}

absl::Status CheckPeer(const Path& at, const ProcessImageT& image, uint32_t self, const UnixSocketT& socket) {
  if (socket.peer == kNone) return absl::OkStatus();
  MOULT_RETURN_IF_ERROR(CheckIndex(at, "peer", socket.peer, image.open_files, "open_files"));
  const UnixSocketT* peer = image.open_files[socket.peer]->resource.AsUnixSocket();
  if (peer == nullptr || peer->type != socket.type) {
    return at.BadField("peer", socket.peer, " is not a unix socket of the same type");
  }
  // Only a datagram socket can send to one that does not send back, or to itself.
  if (socket.type == SOCK_DGRAM) return absl::OkStatus();
  if (socket.peer == self || peer->peer != self) {
    return at.BadField("peer", socket.peer, " is not connected back to ", self);
  }
  if (socket.state != SocketState::Connected) {
    return at.BadField("state", EnumNameSocketState(socket.state), ", but it has a peer");
  }
  return absl::OkStatus();
}

absl::Status CheckQueue(const Path& at, const ProcessImageT& image, const UnixSocketT& socket) {
  MOULT_RETURN_IF_ERROR(CheckCount(at, "queue", socket.queue, kMaxOpenFiles));
  for (size_t i = 0; i < socket.queue.size(); ++i) {
    const UnixMessageT& message = *socket.queue[i];
    const Path here(at, "queue", i);
    MOULT_RETURN_IF_ERROR(CheckCount(here, "fds", message.fds, kMaxMessageFds));
    for (const uint32_t file : message.fds) {
      MOULT_RETURN_IF_ERROR(CheckIndex(here, "fds", file, image.open_files, "open_files"));
    }
    MOULT_RETURN_IF_ERROR(CheckSunPath(here, "sender", message.sender));
  }
  return absl::OkStatus();
}

// Empty, or a whole sockaddr of `family`.
absl::Status CheckSockaddr(const Path& at, const char* field, const std::vector<uint8_t>& address,
                           int family) {
  if (address.empty()) return absl::OkStatus();
  const size_t expected = family == AF_INET ? 16 : 28;
  uint16_t stored = 0;
  if (address.size() == expected) std::memcpy(&stored, address.data(), sizeof(stored));
  if (stored == family) return absl::OkStatus();
  return at.BadField(field, "is not an address of family ", family);
}

}  // namespace

absl::Status CheckSocket(const Path& at, const ProcessImageT& image, uint32_t self,
                         const UnixSocketT& socket) {
  if (socket.type != SOCK_STREAM && socket.type != SOCK_DGRAM && socket.type != SOCK_SEQPACKET) {
    return at.BadField("type", socket.type, " is unknown");
  }
  if (!InRange(socket.state, SocketState::MAX)) {
    return at.BadField("state", static_cast<int>(socket.state), " is unknown");
  }
  MOULT_RETURN_IF_ERROR(CheckSunPath(at, "address", socket.address));
  MOULT_RETURN_IF_ERROR(CheckSunPath(at, "peer_address", socket.peer_address));
  if (socket.state == SocketState::Listening) {
    if (socket.type == SOCK_DGRAM) return at.BadField("state", "a datagram socket cannot listen");
    if (socket.address.empty()) return at.BadField("address", "empty, but it listens");
  }
  if (socket.state == SocketState::Bound && socket.address.empty()) {
    return at.BadField("address", "empty, but it is bound");
  }
  if (socket.shutdown > 3)
    return at.BadField("shutdown", static_cast<int>(socket.shutdown), " has unknown bits");
  if (socket.mode > 07777) return at.BadField("mode", socket.mode, " has bits that are not permissions");
  MOULT_RETURN_IF_ERROR(CheckOptions(at, socket.options));
  MOULT_RETURN_IF_ERROR(CheckQueue(at, image, socket));
  return CheckPeer(at, image, self, socket);
}

absl::Status CheckSocket(const Path& at, const InetSocketT& socket) {
  if (socket.family != AF_INET && socket.family != AF_INET6) {
    return at.BadField("family", socket.family, " is unknown");
  }
  if (socket.type != SOCK_STREAM && socket.type != SOCK_DGRAM) {
    return at.BadField("type", socket.type, " is unknown");
  }
  if (!InRange(socket.state, SocketState::MAX)) {
    return at.BadField("state", static_cast<int>(socket.state), " is unknown");
  }
  MOULT_RETURN_IF_ERROR(CheckSockaddr(at, "address", socket.address, socket.family));
  MOULT_RETURN_IF_ERROR(CheckSockaddr(at, "peer_address", socket.peer_address, socket.family));
  if (socket.state == SocketState::Listening && socket.type != SOCK_STREAM) {
    return at.BadField("state", "a datagram socket cannot listen");
  }
  return CheckOptions(at, socket.options);
}

}  // namespace moult::image::validate
