// SPDX-License-Identifier: Apache-2.0
#include <arpa/inet.h>
#include <netinet/in.h>

#include <cstring>

#include "resource/inet_socket/inet_socket.h"

namespace moult::engine {

bool ReachableAt(const image::InetSocketT& socket, uint16_t port) {
  sockaddr_in bound{};
  if (socket.type != SOCK_STREAM || socket.address.size() < sizeof(bound)) return false;
  std::memcpy(&bound, socket.address.data(), sizeof(bound));
  // Whether an IPv6 socket takes IPv4 connections its options tell; a caller who is told no finds out by trying.
  if (bound.sin_family != AF_INET || ntohs(bound.sin_port) != port) return false;
  const uint32_t address = ntohl(bound.sin_addr.s_addr);
  return address == INADDR_ANY || address == INADDR_LOOPBACK;
}

std::string FormatInetAddress(const std::vector<uint8_t>& bytes) {
  char text[INET6_ADDRSTRLEN] = "?";
  sockaddr_in6 six{};
  sockaddr_in four{};
  if (bytes.size() >= sizeof(four)) std::memcpy(&four, bytes.data(), sizeof(four));
  if (four.sin_family == AF_INET) {
    inet_ntop(AF_INET, &four.sin_addr, text, sizeof(text));
    return absl::StrCat(text, ":", ntohs(four.sin_port));
  }
  if (four.sin_family != AF_INET6 || bytes.size() < sizeof(six)) return "unknown address";
  std::memcpy(&six, bytes.data(), sizeof(six));
  inet_ntop(AF_INET6, &six.sin6_addr, text, sizeof(text));
  return absl::StrCat("[", text, "]:", ntohs(six.sin6_port));
}

}  // namespace moult::engine
