// SPDX-License-Identifier: Apache-2.0
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <iterator>

#include "resource/inet_socket/inet_socket.h"
#include "resource/inet_socket/socket_options.h"

namespace moult::engine {
namespace {

const sockaddr* AsSockaddr(const std::vector<uint8_t>& bytes) {
  return reinterpret_cast<const sockaddr*>(bytes.data());
}

absl::Status AddressStatus(absl::string_view what, const std::vector<uint8_t>& address, const char* protocol) {
  const int error = errno;
  const absl::Status status = ErrnoStatus(error, absl::StrCat(what, " ", protocol, " ", FormatInetAddress(address)));
  const char* remedy = nullptr;
  if (error == EADDRINUSE) remedy = "stop the program that uses this address (ss -lnp shows it), or restore into another network namespace";
  if (error == EADDRNOTAVAIL) remedy = "give the machine this address again (ip address add)";
  if (error == EACCES) remedy = "restore with CAP_NET_BIND_SERVICE";
  if (error == ENETUNREACH || error == EHOSTUNREACH) remedy = "give the machine a route to it";
  if (remedy == nullptr) return status;
  return absl::Status(error == EACCES ? absl::StatusCode::kPermissionDenied : absl::StatusCode::kFailedPrecondition,
                      absl::StrCat(WithoutRemedy(status), "; ", remedy));
}

constexpr OptionName kInterfaces[] = {
    {SOL_SOCKET, SO_BINDTODEVICE},      {IPPROTO_IP, IP_UNICAST_IF},     {IPPROTO_IP, IP_MULTICAST_IF},
    {IPPROTO_IP, MCAST_JOIN_GROUP},     {IPPROTO_IPV6, IPV6_UNICAST_IF}, {IPPROTO_IPV6, IPV6_MULTICAST_IF},
    {IPPROTO_IPV6, MCAST_JOIN_GROUP},
};

// An interface that is named and not there: nothing that will come by itself, or that another try finds.
absl::Status OptionStatus(const absl::Status& status, const image::SocketOptionT& option) {
  const auto is_it = [&option](const OptionName& name) { return name.level == option.level && name.name == option.name; };
  if (std::none_of(std::begin(kInterfaces), std::end(kInterfaces), is_it)) return status;
  if (absl::IsNotFound(status) || absl::IsAlreadyExists(status)) {  // ENODEV, EADDRNOTAVAIL
    return absl::FailedPreconditionError(absl::StrCat(status.message(), "; give the machine the network interface, or the address (ip address add), that the process used"));
  }
  if (option.name == MCAST_JOIN_GROUP && absl::IsResourceExhausted(status)) {  // ENOBUFS
    return WithRemedy(status, "raise net.ipv4.igmp_max_memberships, or net.core.optmem_max");
  }
  return status;
}

// What tuning gave a connection: a closed one does not need it, and a fresh socket may refuse it.
bool MayFail(const image::InetSocketT& saved, const image::SocketOptionT& option) {
  return saved.state == image::SocketState::Closed && option.level != SOL_SOCKET;
}

absl::Status Bind(int fd, const image::InetSocketT& saved) {
  // Connections that ended with the captured process may still hold the port for minutes. Two TCP sockets can
  // share a port this way only until one listens, which listen(2) reports.
  const int old = IntOption(fd, SOL_SOCKET, SO_REUSEADDR, 0);
  const int on = 1;
  const bool tcp = saved.type == SOCK_STREAM;
  if (tcp && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0) return ErrnoStatus("SO_REUSEADDR");
  if (bind(fd, AsSockaddr(saved.address), static_cast<socklen_t>(saved.address.size())) < 0) {
    return AddressStatus("bind", saved.address, tcp ? "TCP" : "UDP");
  }
  if (saved.state == image::SocketState::Listening && listen(fd, saved.backlog) < 0) {
    return AddressStatus("listen on", saved.address, "TCP");
  }
  if (tcp && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &old, sizeof(old)) < 0) return ErrnoStatus("SO_REUSEADDR");
  return absl::OkStatus();
}

bool HasPort(const std::vector<uint8_t>& address) {
  sockaddr_in any{};  // the port is at the same place in both families
  if (address.size() < sizeof(any)) return false;
  std::memcpy(&any, address.data(), sizeof(any));
  return any.sin_port != 0;
}

}  // namespace

absl::StatusOr<UniqueFd> RestoreInetSocket(RestoreContext& context, uint32_t index) {
  const image::InetSocketT& saved = *context.open_file(index).resource.AsInetSocket();
  UniqueFd fd(socket(saved.family, saved.type | SOCK_CLOEXEC, saved.protocol));
  if (!fd.valid()) return ErrnoStatus("make an IP socket");
  const image::SocketOptionT* late = nullptr;
  for (const auto& option : saved.options) {
    // A corked UDP socket has nothing queued yet, and TCP_FASTOPEN wants a state that listen(2) brings.
    if (option->level == IPPROTO_TCP && option->name == TCP_FASTOPEN && saved.state == image::SocketState::Listening) {
      late = option.get();
      continue;
    }
    const absl::Status status = ApplyOption(fd.get(), *option);
    if (!status.ok() && !MayFail(saved, *option)) return OptionStatus(status, *option);
  }
  switch (saved.state) {
    case image::SocketState::Unbound:
      break;
    case image::SocketState::Bound:
    case image::SocketState::Listening:
      MOULT_RETURN_IF_ERROR(Bind(fd.get(), saved));
      break;
    case image::SocketState::Connected:
      if (HasPort(saved.address)) MOULT_RETURN_IF_ERROR(Bind(fd.get(), saved));
      if (connect(fd.get(), AsSockaddr(saved.peer_address), static_cast<socklen_t>(saved.peer_address.size())) < 0) {
        return AddressStatus("connect to", saved.peer_address, "UDP");
      }
      break;
    case image::SocketState::Closed:
      // Without a connection this answers ENOTCONN, but both directions are shut all the same: reads give end
      // of file, writes EPIPE, and poll(2) says readable and hung up.
      if (shutdown(fd.get(), SHUT_RDWR) < 0 && errno != ENOTCONN) return ErrnoStatus("shut a TCP socket down");
      break;
  }
  if (late != nullptr) MOULT_RETURN_IF_ERROR(ApplyOption(fd.get(), *late));
  return fd;
}

}  // namespace moult::engine
