// SPDX-License-Identifier: Apache-2.0
#include "resource/inet_socket/socket_options.h"

#include <linux/filter.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "image/capture_context.h"
#include "moult/base/status.h"

namespace moult::engine {
namespace {

// Newer than the headers of Debian 12.
constexpr int kSoPassPidfd = 76;

// The longest value: names of interfaces and of congestion controls, linger, time-outs.
constexpr size_t kMaxValue = 64;

constexpr OptionName kGeneric[] = {
    {SOL_SOCKET, SO_REUSEADDR},      {SOL_SOCKET, SO_REUSEPORT},    {SOL_SOCKET, SO_BINDTODEVICE},
    {SOL_SOCKET, SO_MARK},           {SOL_SOCKET, SO_PRIORITY},     {SOL_SOCKET, SO_SNDBUF},
    {SOL_SOCKET, SO_RCVBUF},         {SOL_SOCKET, SO_KEEPALIVE},    {SOL_SOCKET, SO_BROADCAST},
    {SOL_SOCKET, SO_OOBINLINE},      {SOL_SOCKET, SO_LINGER},       {SOL_SOCKET, SO_RCVTIMEO},
    {SOL_SOCKET, SO_SNDTIMEO},       {SOL_SOCKET, SO_RCVLOWAT},     {SOL_SOCKET, SO_DONTROUTE},
    {SOL_SOCKET, SO_TIMESTAMP},      {SOL_SOCKET, SO_TIMESTAMPNS},  {SOL_SOCKET, SO_TIMESTAMP_NEW},
    {SOL_SOCKET, SO_TIMESTAMPNS_NEW},{SOL_SOCKET, SO_TIMESTAMPING}, {SOL_SOCKET, SO_RXQ_OVFL},
    {SOL_SOCKET, SO_WIFI_STATUS},    {SOL_SOCKET, SO_NO_CHECK},     {SOL_SOCKET, SO_BUSY_POLL},
    {SOL_SOCKET, SO_PREFER_BUSY_POLL},{SOL_SOCKET, SO_BUSY_POLL_BUDGET},{SOL_SOCKET, SO_MAX_PACING_RATE},
    {SOL_SOCKET, SO_SELECT_ERR_QUEUE},{SOL_SOCKET, SO_ZEROCOPY},    {SOL_SOCKET, SO_PASSCRED},
    {SOL_SOCKET, SO_PASSSEC},        {SOL_SOCKET, kSoPassPidfd},    {SOL_SOCKET, SO_PEEK_OFF},
};

absl::Status Set(int fd, int level, int name, const void* value, size_t size) {
  if (setsockopt(fd, level, name, value, static_cast<socklen_t>(size)) == 0) return absl::OkStatus();
  return ErrnoStatus(absl::StrCat("set socket option ", level, "/", name));
}

// The kernel doubles what it is given; the FORCE forms pass the system's limit, where that is allowed.
absl::Status SetBuffer(int fd, const image::SocketOptionT& option) {
  int value = 0;
  if (option.value.size() != sizeof(value)) return absl::DataLossError("a socket buffer's size is not an int");
  std::memcpy(&value, option.value.data(), sizeof(value));
  value /= 2;
  const int forced = option.name == SO_RCVBUF ? SO_RCVBUFFORCE : SO_SNDBUFFORCE;
  if (setsockopt(fd, SOL_SOCKET, forced, &value, sizeof(value)) == 0) return absl::OkStatus();
  return Set(fd, SOL_SOCKET, option.name, &value, sizeof(value));
}

absl::Status SetFilter(int fd, const image::SocketOptionT& option) {
  std::vector<sock_filter> program(option.value.size() / sizeof(sock_filter));
  std::memcpy(program.data(), option.value.data(), program.size() * sizeof(sock_filter));
  const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  return Set(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter));
}

}  // namespace

void AppendOption(OptionList& options, int level, int name, const void* value, size_t size) {
  auto option = std::make_unique<image::SocketOptionT>();
  option->level = level;
  option->name = name;
  const auto* bytes = static_cast<const uint8_t*>(value);
  option->value.assign(bytes, bytes + size);
  options.push_back(std::move(option));
}

absl::Span<const OptionName> GenericOptions() { return kGeneric; }

int IntOption(int fd, int level, int name, int otherwise) {
  int value = 0;
  socklen_t size = sizeof(value);
  if (getsockopt(fd, level, name, &value, &size) < 0 || size == 0) return otherwise;
  return value;
}

absl::Status CaptureOptions(int fd, int fresh, absl::Span<const OptionName> names, OptionList& options) {
  for (const OptionName& option : names) {
    uint8_t value[kMaxValue] = {};
    uint8_t usual[kMaxValue] = {};
    socklen_t size = sizeof(value);
    socklen_t usual_size = sizeof(usual);
    if (getsockopt(fd, option.level, option.name, value, &size) < 0) {
      // Not of this kernel, not of this kind of socket, or not of its state.
      if (errno == ENOPROTOOPT || errno == EOPNOTSUPP || errno == EINVAL || errno == ENOTCONN) continue;
      return ErrnoStatus(absl::StrCat("get socket option ", option.level, "/", option.name));
    }
    if (getsockopt(fresh, option.level, option.name, usual, &usual_size) == 0 && size == usual_size &&
        std::memcmp(value, usual, size) == 0) {
      continue;
    }
    AppendOption(options, option.level, option.name, value, size);
  }
  return absl::OkStatus();
}

absl::Status CaptureFilter(int fd, OptionList& options) {
  // Here the length counts instructions, and a null length asks for it.
  socklen_t count = 0;
  if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, nullptr, &count) < 0) {
    if (errno == ENOPROTOOPT) return absl::OkStatus();
    if (errno == EACCES) return Refuse("an eBPF program filters the socket", "detach it (SO_DETACH_FILTER) before the dump");
    return ErrnoStatus("SO_GET_FILTER");
  }
  if (count == 0) return absl::OkStatus();
  std::vector<sock_filter> program(count);
  if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, program.data(), &count) < 0) return ErrnoStatus("SO_GET_FILTER");
  AppendOption(options, SOL_SOCKET, SO_ATTACH_FILTER, program.data(), program.size() * sizeof(sock_filter));
  const int locked = IntOption(fd, SOL_SOCKET, SO_LOCK_FILTER, 0);
  if (locked != 0) AppendOption(options, SOL_SOCKET, SO_LOCK_FILTER, &locked, sizeof(locked));
  return absl::OkStatus();
}

absl::Status ApplyOption(int fd, const image::SocketOptionT& option) {
  if (option.level == SOL_SOCKET) {
    if (option.name == SO_RCVBUF || option.name == SO_SNDBUF) return SetBuffer(fd, option);
    if (option.name == SO_ATTACH_FILTER) return SetFilter(fd, option);
  }
  return Set(fd, option.level, option.name, option.value.data(), option.value.size());
}

absl::Status ApplyOptions(int fd, const OptionList& options) {
  for (const auto& option : options) MOULT_RETURN_IF_ERROR(ApplyOption(fd, *option));
  return absl::OkStatus();
}

}  // namespace moult::engine
