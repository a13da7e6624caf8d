// SPDX-License-Identifier: Apache-2.0
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <cstring>

#include "resource/inet_socket/inet_socket.h"
#include "resource/inet_socket/multicast.h"
#include "resource/inet_socket/socket_options.h"

namespace moult::engine {
namespace {

constexpr OptionName kIp[] = {
    {IPPROTO_IP, IP_FREEBIND},      {IPPROTO_IP, IP_TRANSPARENT},    {IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT},
    {IPPROTO_IP, IP_TOS},           {IPPROTO_IP, IP_TTL},            {IPPROTO_IP, IP_PKTINFO},
    {IPPROTO_IP, IP_RECVTTL},       {IPPROTO_IP, IP_RECVTOS},        {IPPROTO_IP, IP_RECVOPTS},
    {IPPROTO_IP, IP_RECVERR},       {IPPROTO_IP, IP_RECVORIGDSTADDR},{IPPROTO_IP, IP_MTU_DISCOVER},
    {IPPROTO_IP, IP_MINTTL},        {IPPROTO_IP, IP_MULTICAST_TTL},  {IPPROTO_IP, IP_MULTICAST_LOOP},
    {IPPROTO_IP, IP_MULTICAST_ALL}, {IPPROTO_IP, IP_UNICAST_IF},     {IPPROTO_IP, IP_MULTICAST_IF},
};
constexpr OptionName kIpv6[] = {
    {IPPROTO_IPV6, IPV6_V6ONLY},         {IPPROTO_IPV6, IPV6_FREEBIND},     {IPPROTO_IPV6, IPV6_TRANSPARENT},
    {IPPROTO_IPV6, IPV6_UNICAST_HOPS},   {IPPROTO_IPV6, IPV6_TCLASS},       {IPPROTO_IPV6, IPV6_RECVPKTINFO},
    {IPPROTO_IPV6, IPV6_RECVHOPLIMIT},   {IPPROTO_IPV6, IPV6_RECVTCLASS},   {IPPROTO_IPV6, IPV6_RECVERR},
    {IPPROTO_IPV6, IPV6_RECVORIGDSTADDR},{IPPROTO_IPV6, IPV6_MTU_DISCOVER}, {IPPROTO_IPV6, IPV6_DONTFRAG},
    {IPPROTO_IPV6, IPV6_MULTICAST_HOPS}, {IPPROTO_IPV6, IPV6_MULTICAST_LOOP},{IPPROTO_IPV6, IPV6_MULTICAST_IF},
    {IPPROTO_IPV6, IPV6_MULTICAST_ALL},  {IPPROTO_IPV6, IPV6_UNICAST_IF},   {IPPROTO_IPV6, IPV6_MINHOPCOUNT},
    {IPPROTO_IPV6, IPV6_AUTOFLOWLABEL},
};
constexpr OptionName kTcp[] = {
    {IPPROTO_TCP, TCP_CONGESTION},  {IPPROTO_TCP, TCP_NODELAY},     {IPPROTO_TCP, TCP_CORK},
    {IPPROTO_TCP, TCP_KEEPIDLE},    {IPPROTO_TCP, TCP_KEEPINTVL},   {IPPROTO_TCP, TCP_KEEPCNT},
    {IPPROTO_TCP, TCP_DEFER_ACCEPT},{IPPROTO_TCP, TCP_SYNCNT},      {IPPROTO_TCP, TCP_LINGER2},
    {IPPROTO_TCP, TCP_USER_TIMEOUT},{IPPROTO_TCP, TCP_WINDOW_CLAMP},{IPPROTO_TCP, TCP_FASTOPEN},
    {IPPROTO_TCP, TCP_FASTOPEN_CONNECT}, {IPPROTO_TCP, TCP_SAVE_SYN}, {IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS},
    {IPPROTO_TCP, TCP_NOTSENT_LOWAT}, {IPPROTO_TCP, TCP_INQ},       {IPPROTO_TCP, TCP_TX_DELAY},
};
constexpr OptionName kTcpSegment[] = {{IPPROTO_TCP, TCP_MAXSEG}};
constexpr OptionName kUdp[] = {{IPPROTO_UDP, 1 /* UDP_CORK */}, {IPPROTO_UDP, 103 /* UDP_SEGMENT */},
                               {IPPROTO_UDP, 104 /* UDP_GRO */}};

using NameCall = int (*)(int, sockaddr*, socklen_t*);

std::vector<uint8_t> AddressOf(NameCall call, int fd) {
  sockaddr_storage storage{};
  socklen_t size = sizeof(storage);
  if (call(fd, reinterpret_cast<sockaddr*>(&storage), &size) < 0) return {};
  const auto* bytes = reinterpret_cast<const uint8_t*>(&storage);
  return {bytes, bytes + size};
}

// Has an address or a port of its own.
bool IsBound(const std::vector<uint8_t>& address) {
  if (address.size() >= sizeof(sockaddr_in6)) {
    sockaddr_in6 six{};
    std::memcpy(&six, address.data(), sizeof(six));
    if (six.sin6_family == AF_INET6) return six.sin6_port != 0 || !IN6_IS_ADDR_UNSPECIFIED(&six.sin6_addr);
  }
  sockaddr_in four{};
  if (address.size() < sizeof(four)) return false;
  std::memcpy(&four, address.data(), sizeof(four));
  return four.sin_port != 0 || four.sin_addr.s_addr != 0;
}

short Poll(int fd) {
  pollfd poller{fd, POLLIN | POLLRDHUP, 0};
  return poll(&poller, 1, 0) < 0 ? short{0} : poller.revents;
}

// Whether TCP_MAXSEG is what the program asked for. Once there was a connection it is the size that was in use, and
// before Linux 6.4 (6.1.33) never anything but the size of a fresh socket.
bool ShowsAskedSegment(int fd, image::SocketState state) {
  if (state == image::SocketState::Closed) return false;
  if (state == image::SocketState::Listening) return true;
  tcp_info info{};
  socklen_t size = sizeof(info);
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0) return false;
  return IntOption(fd, IPPROTO_TCP, TCP_MAXSEG, 0) != static_cast<int>(info.tcpi_snd_mss);
}

absl::Status CaptureOptionsOf(int fd, image::InetSocketT& socket_image) {
  const UniqueFd fresh(socket(socket_image.family, socket_image.type | SOCK_CLOEXEC, socket_image.protocol));
  if (!fresh.valid()) return ErrnoStatus("make a socket to compare with");
  OptionList& options = socket_image.options;
  MOULT_RETURN_IF_ERROR(CaptureOptions(fd, fresh.get(), GenericOptions(), options));
  if (socket_image.family == AF_INET6) MOULT_RETURN_IF_ERROR(CaptureOptions(fd, fresh.get(), kIpv6, options));
  MOULT_RETURN_IF_ERROR(CaptureOptions(fd, fresh.get(), kIp, options));
  const bool tcp = socket_image.type == SOCK_STREAM;
  MOULT_RETURN_IF_ERROR(CaptureOptions(fd, fresh.get(), tcp ? absl::MakeConstSpan(kTcp) : absl::MakeConstSpan(kUdp), options));
  if (tcp && ShowsAskedSegment(fd, socket_image.state)) {
    MOULT_RETURN_IF_ERROR(CaptureOptions(fd, fresh.get(), kTcpSegment, options));
  }
  return CaptureFilter(fd, options);
}

absl::Status CaptureTcp(CaptureContext& context, const OpenDescription& description, image::InetSocketT& socket_image) {
  tcp_info info{};
  socklen_t size = sizeof(info);
  if (getsockopt(description.fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0) return ErrnoStatus("TCP_INFO");
  if (info.tcpi_state == TCP_LISTEN) {
    socket_image.state = image::SocketState::Listening;
    socket_image.backlog = static_cast<int>(info.tcpi_sacked);  // its limit; unacked is what is waiting
    if (info.tcpi_unacked != 0) {
      context.Note(absl::StrCat("fd ", description.number, ": ", info.tcpi_unacked, " TCP connections to ",
                                FormatInetAddress(socket_image.address), " that were not accepted yet are lost"));
    }
    return absl::OkStatus();
  }
  // After a connection has ended, too, the state is TCP_CLOSE; only the shut-down receiving half tells.
  if (info.tcpi_state == TCP_CLOSE && (Poll(description.fd) & POLLRDHUP) == 0) {
    socket_image.state = IsBound(socket_image.address) ? image::SocketState::Bound : image::SocketState::Unbound;
    return absl::OkStatus();
  }
  socket_image.state = image::SocketState::Closed;
  if (info.tcpi_state == TCP_CLOSE) return absl::OkStatus();
  socket_image.peer_address = AddressOf(getpeername, description.fd);
  const std::string peer = socket_image.peer_address.empty() ? "a peer" : FormatInetAddress(socket_image.peer_address);
  context.Note(absl::StrCat("fd ", description.number, ": TCP connection ", FormatInetAddress(socket_image.address),
                            " -> ", peer, " comes back closed: reads give end of file, writes EPIPE and SIGPIPE (not ECONNRESET)"));
  return absl::OkStatus();
}

absl::Status CaptureUdp(CaptureContext& context, const OpenDescription& description, image::InetSocketT& socket_image) {
  socket_image.peer_address = AddressOf(getpeername, description.fd);
  socket_image.state = image::SocketState::Unbound;
  if (IsBound(socket_image.address)) socket_image.state = image::SocketState::Bound;
  if (!socket_image.peer_address.empty()) socket_image.state = image::SocketState::Connected;
  const short events = Poll(description.fd);
  if ((events & POLLIN) != 0 && (events & POLLRDHUP) == 0) {
    context.Note(absl::StrCat("fd ", description.number, ": UDP datagrams not read at capture are lost"));
  }
  return absl::OkStatus();
}

}  // namespace

bool MatchesInetSocket(const OpenDescription& description) {
  if (!S_ISSOCK(description.st.st_mode)) return false;
  const int domain = IntOption(description.fd, SOL_SOCKET, SO_DOMAIN, -1);
  return domain == AF_INET || domain == AF_INET6;
}

absl::Status CaptureInetSocket(CaptureContext& context, const OpenDescription& description, image::OpenFileT& file) {
  image::InetSocketT resource;
  resource.family = IntOption(description.fd, SOL_SOCKET, SO_DOMAIN, -1);
  resource.type = IntOption(description.fd, SOL_SOCKET, SO_TYPE, -1);
  resource.protocol = IntOption(description.fd, SOL_SOCKET, SO_PROTOCOL, -1);
  const bool tcp = resource.type == SOCK_STREAM && resource.protocol == IPPROTO_TCP;
  const bool udp = resource.type == SOCK_DGRAM && resource.protocol == IPPROTO_UDP;
  if (resource.type == SOCK_RAW) return Refuse("raw sockets cannot be saved", "close it before the dump");
  if (!tcp && !udp) {
    return Refuse(absl::StrCat("sockets of IP protocol ", resource.protocol, " cannot be saved (TCP and UDP can)"),
                  "close it before the dump");
  }
  if (tcp && IntOption(description.fd, IPPROTO_TCP, TCP_REPAIR, 0) > 0) {
    return Refuse("the TCP socket is in repair mode", "let the program that repairs it finish");
  }
  resource.address = AddressOf(getsockname, description.fd);
  MOULT_RETURN_IF_ERROR(tcp ? CaptureTcp(context, description, resource) : CaptureUdp(context, description, resource));
  // A closed connection keeps its options too: the program may ask for them.
  MOULT_RETURN_IF_ERROR(CaptureOptionsOf(description.fd, resource));
  if (udp) MOULT_RETURN_IF_ERROR(CaptureMemberships(context, description, resource));
  file.resource.Set(std::move(resource));
  return absl::OkStatus();
}

}  // namespace moult::engine
