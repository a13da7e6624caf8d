// SPDX-License-Identifier: Apache-2.0
#include "function/endpoint.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/match.h"

namespace moult::agent {
namespace {

// The socket by a path as the function sees it; links in it do not lead out of its file system.
absl::StatusOr<UniqueFd> OpenSocketFile(pid_t init_pid, const std::string& path) {
  const std::string root = absl::StrCat("/proc/", init_pid, "/root");
  const UniqueFd folder(open(root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  // An init that has just ended shows in what the caller waits for next.
  if (!folder.valid()) return absl::UnavailableError(absl::StrCat("open ", root, ": ", ErrnoName(errno)));
  open_how how{};
  how.flags = O_PATH | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  UniqueFd file(static_cast<int>(syscall(SYS_openat2, folder.get(), path.c_str(), &how, sizeof(how))));
  if (!file.valid()) return absl::UnavailableError(absl::StrCat("open ", path, ": ", ErrnoName(errno)));
  return file;
}

absl::StatusOr<UniqueFd> ConnectUnix(pid_t init_pid, const std::string& path) {
  MOULT_ASSIGN_OR_RETURN(const UniqueFd file, OpenSocketFile(init_pid, path));
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return ErrnoStatus("socket");
  // Short, however long the path is; and the very file that was found.
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string link = absl::StrCat("/proc/self/fd/", file.get());
  std::memcpy(address.sun_path, link.c_str(), link.size() + 1);
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) < 0)
    return absl::UnavailableError(absl::StrCat("connect to ", path, ": ", ErrnoName(errno)));
  return fd;
}

absl::StatusOr<UniqueFd> ConnectTcp(uint16_t port, const Watch& watch) {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return ErrnoStatus("socket");
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int error = 0;
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) < 0) error = errno;
  if (error == EINPROGRESS) {
    MOULT_RETURN_IF_ERROR(Wait(watch, fd.get(), POLLOUT));
    socklen_t size = sizeof(error);
    if (getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size) < 0) return ErrnoStatus("SO_ERROR");
  }
  if (error != 0)
    return absl::UnavailableError(absl::StrCat("connect to port ", port, ": ", ErrnoName(error)));
  return fd;
}

absl::Status SendAll(int fd, std::string_view text, const Watch& watch) {
  while (!text.empty()) {
    const ssize_t n = send(fd, text.data(), text.size(), MSG_NOSIGNAL);
    if (n > 0) {
      text.remove_prefix(static_cast<size_t>(n));
    } else if (errno == EAGAIN) {
      MOULT_RETURN_IF_ERROR(Wait(watch, fd, POLLOUT));
    } else if (errno != EINTR) {
      return absl::UnavailableError(absl::StrCat("send: ", ErrnoName(errno)));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadStatusLine(int fd, const Watch& watch) {
  std::string text;
  while (text.size() < 4096 && !absl::StrContains(text, '\n')) {
    char buffer[512];
    const ssize_t n = recv(fd, buffer, sizeof(buffer), 0);
    if (n > 0) {
      text.append(buffer, static_cast<size_t>(n));
    } else if (n == 0) {
      return absl::UnavailableError("the function closed the connection");
    } else if (errno == EAGAIN) {
      MOULT_RETURN_IF_ERROR(Wait(watch, fd, POLLIN));
    } else if (errno != EINTR) {
      return absl::UnavailableError(absl::StrCat("receive: ", ErrnoName(errno)));
    }
  }
  return text.substr(0, text.find_first_of("\r\n"));
}

}  // namespace

Watch Watch::Until(Clock::time_point sooner) const {
  Watch watch = *this;
  watch.deadline = std::min(deadline, sooner);
  return watch;
}

absl::Status Wait(const Watch& watch, int fd, short events, std::chrono::milliseconds most) {
  pollfd fds[] = {{fd, events, 0},
                  {watch.connection, POLLRDHUP, 0},
                  {watch.agent, POLLRDHUP, 0},
                  {watch.init_pidfd, POLLIN, 0}};
  const auto until = std::min(watch.deadline, Clock::now() + most);
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
    const int n = poll(fds, 4, static_cast<int>(std::clamp<int64_t>(left, 0, 1 << 30)));
    if (n < 0 && errno != EINTR) return ErrnoStatus("poll");
    if (n > 0) {
      if (fds[0].revents != 0) return absl::OkStatus();
      if (fds[3].revents != 0) return absl::AbortedError("the function has ended");
      if (fds[1].revents != 0) return absl::CancelledError("the host has closed the connection");
      if (fds[2].revents != 0) return absl::CancelledError("the agent has ended");
    }
    if (Clock::now() >= watch.deadline) return absl::DeadlineExceededError("not in time");
    if (n == 0 && Clock::now() >= until) return absl::OkStatus();
  }
}

absl::StatusOr<UniqueFd> ConnectEndpoint(pid_t init_pid, const rpc::EndpointT& endpoint, const Watch& watch) {
  switch (endpoint.kind) {
    case rpc::EndpointKind::Unix:
      return ConnectUnix(init_pid, endpoint.path);
    case rpc::EndpointKind::Tcp:
      return ConnectTcp(endpoint.port, watch);
    case rpc::EndpointKind::None:
      break;
  }
  return absl::FailedPreconditionError("the function has no endpoint; give its spec one");
}

absl::Status HttpGet(pid_t init_pid, const rpc::EndpointT& endpoint, const std::string& path,
                     const Watch& watch) {
  MOULT_ASSIGN_OR_RETURN(const UniqueFd fd, ConnectEndpoint(init_pid, endpoint, watch));
  MOULT_RETURN_IF_ERROR(
      SendAll(fd.get(), absl::StrCat("GET ", path, " HTTP/1.0\r\nHost: localhost\r\n\r\n"), watch));
  MOULT_ASSIGN_OR_RETURN(const std::string line, ReadStatusLine(fd.get(), watch));
  if (absl::StartsWith(line, "HTTP/1.0 2") || absl::StartsWith(line, "HTTP/1.1 2")) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("GET ", path, ": the function answers \"", line.substr(0, 80), "\""));
}

std::string EndpointName(const rpc::EndpointT& endpoint) {
  switch (endpoint.kind) {
    case rpc::EndpointKind::Unix:
      return endpoint.path;
    case rpc::EndpointKind::Tcp:
      return absl::StrCat("port ", endpoint.port);
    case rpc::EndpointKind::None:
      break;
  }
  return "no endpoint";
}

}  // namespace moult::agent
