// SPDX-License-Identifier: Apache-2.0
#include "transport/transport.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
// After <sys/socket.h>, whose types it uses.
#include <linux/vm_sockets.h>

#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "moult/base/status.h"

namespace moult::host {
namespace {

using Kind = TransportConfig::Kind;

// "OK 1073741824\n" is the longest that there is; more is no answer of a VMM.
constexpr size_t kMaxAnswer = 64;

absl::Status ConnectError(int error, const std::string& to) {
  const absl::Status status = ErrnoStatus(error, absl::StrCat("connect to the agent at ", to));
  switch (error) {
    case ECONNREFUSED:
    case ECONNRESET:
    case ENODEV:
    case ENOENT:
    case EAGAIN:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case ETIMEDOUT:
      return absl::UnavailableError(
          absl::StrCat(WithoutRemedy(status), "; is the VM up and moult-agent running?"));
    default:
      return status;
  }
}

absl::StatusOr<UniqueFd> NewSocket(int family) {
  UniqueFd fd(socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return ErrnoStatus(family == AF_VSOCK ? "socket AF_VSOCK" : "socket AF_UNIX");
  return fd;
}

// One byte at a time: what follows the line belongs to the agent's stream.
Task<absl::StatusOr<std::string>> ReadLine(Strand* strand, int fd) {
  std::string line;
  while (line.size() < kMaxAnswer) {
    char c;
    const ssize_t n = recv(fd, &c, 1, MSG_DONTWAIT);
    if (n == 1 && c == '\n') co_return line;
    if (n == 1) {
      line.push_back(c);
      continue;
    }
    if (n == 0) co_return absl::UnavailableError("closed: nobody listens on that port in the guest");
    if (errno == EINTR) continue;
    if (errno != EAGAIN) co_return absl::UnavailableError(ErrnoStatus("receive").message());
    MOULT_CO_RETURN_IF_ERROR(co_await strand->Readable(fd));
  }
  co_return absl::DataLossError("the answer to CONNECT has no end");
}

Task<absl::Status> AskForPort(Strand* strand, int fd, uint32_t port) {
  const std::string ask = absl::StrCat("CONNECT ", port, "\n");
  // A fresh stream socket takes so few bytes at once, or it is broken.
  if (send(fd, ask.data(), ask.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(ask.size())) {
    co_return absl::UnavailableError(ErrnoStatus("send CONNECT").message());
  }
  auto line = co_await ReadLine(strand, fd);
  if (!line.ok()) co_return line.status();
  if (!absl::StartsWith(*line, "OK ")) {
    co_return absl::UnavailableError("the VMM's answer to CONNECT is not OK");
  }
  co_return absl::OkStatus();
}

}  // namespace

absl::Status Transport::Check(const TransportConfig& config) {
  const auto bad = [](const char* what) {
    return absl::InvalidArgumentError(absl::StrCat("transport: ", what));
  };
  switch (config.kind) {
    case Kind::kVsock:
      // VMADDR_CID_LOCAL: an agent on this very machine.
      return config.cid >= VMADDR_CID_LOCAL ? absl::OkStatus() : bad("vsock needs the VM's cid");
    case Kind::kConnect:
    case Kind::kUnix:
      if (config.path.empty()) return bad("no path of a unix socket");
      if (config.path.size() >= sizeof(sockaddr_un::sun_path)) return bad("the socket's path is too long");
      return absl::OkStatus();
    case Kind::kFd: {
      int type = 0;
      socklen_t size = sizeof(type);
      if (getsockopt(config.fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_STREAM) {
        return bad("fd is not a stream socket");
      }
      return absl::OkStatus();
    }
    case Kind::kCallback:
      return config.connect ? absl::OkStatus() : bad("no connect function");
    default:
      return bad("unknown kind");
  }
}

std::string Transport::Text() const {
  switch (config_.kind) {
    case Kind::kVsock:
      return absl::StrCat("vsock ", config_.cid, ":", config_.port);
    case Kind::kConnect:
      return absl::StrCat(config_.path, " port ", config_.port);
    case Kind::kUnix:
      return config_.path;
    default:
      return "the given connection";
  }
}

absl::StatusOr<UniqueFd> Transport::Begin(bool* in_progress) {
  *in_progress = false;
  sockaddr_storage storage{};
  socklen_t size = 0;
  if (config_.kind == Kind::kFd) {
    if (!given_.valid()) {
      return absl::UnavailableError("the connection to the agent is broken, and only one was given");
    }
    return std::move(given_);
  }
  if (config_.kind == Kind::kCallback) {
    UniqueFd fd(config_.connect(config_.port));
    if (!fd.valid()) return ConnectError(-fd.Release(), "the embedder's connect function");
    return fd;
  }
  if (config_.kind == Kind::kVsock) {
    auto* address = reinterpret_cast<sockaddr_vm*>(&storage);
    address->svm_family = AF_VSOCK;
    address->svm_cid = config_.cid;
    address->svm_port = config_.port;
    size = sizeof(*address);
  } else {
    auto* address = reinterpret_cast<sockaddr_un*>(&storage);
    address->sun_family = AF_UNIX;
    std::memcpy(address->sun_path, config_.path.data(), config_.path.size());
    size = sizeof(*address);
  }
  MOULT_ASSIGN_OR_RETURN(UniqueFd fd, NewSocket(storage.ss_family));
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&storage), size) != 0) {
    if (errno != EINPROGRESS) return ConnectError(errno, Text());
    *in_progress = true;
  }
  return fd;
}

Task<absl::StatusOr<UniqueFd>> Transport::Connect(Strand* strand) {
  bool in_progress = false;
  MOULT_CO_ASSIGN_OR_RETURN(UniqueFd fd, Begin(&in_progress));
  const int flags = fcntl(fd.get(), F_GETFL);
  if (flags < 0 || fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) != 0) co_return ErrnoStatus("fcntl");
  if (in_progress) {
    absl::Status connected = co_await strand->Writable(fd.get());
    if (!connected.ok()) co_return Annotate(connected, absl::StrCat("connect to the agent at ", Text()));
    int error = 0;
    socklen_t size = sizeof(error);
    getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) co_return ConnectError(error, Text());
  }
  if (config_.kind == Kind::kConnect) {
    absl::Status asked = co_await AskForPort(strand, fd.get(), config_.port);
    if (!asked.ok()) co_return Annotate(asked, absl::StrCat("connect to the agent at ", Text()));
  }
  co_return std::move(fd);
}

}  // namespace moult::host
