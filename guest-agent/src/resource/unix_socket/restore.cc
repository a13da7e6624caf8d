// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "resource/inet_socket/socket_options.h"
#include "resource/unix_socket/name.h"
#include "resource/unix_socket/queue.h"
#include "resource/unix_socket/unix_socket.h"

namespace moult::engine {
namespace {

using State = image::SocketState;

// All unix sockets of the image. In this order: descriptors, names, listeners, queues, connections by name,
// shut-downs, options: each step needs those before it.
class Sockets {
 public:
  explicit Sockets(RestoreContext& context) : context_(context), peers_(context.image.open_files.size()) {}

  absl::Status Make() {
    for (uint32_t i = 0; i < context_.image.open_files.size(); ++i) {
      if (Saved(i) != nullptr) indices_.push_back(i);
    }
    using Step = absl::Status (Sockets::*)(uint32_t, const image::UnixSocketT&);
    constexpr Step kSteps[] = {&Sockets::Open,        &Sockets::Name,   &Sockets::Accept,   &Sockets::Fill,
                               &Sockets::ConnectName, &Sockets::Shut,   &Sockets::Finish};
    for (const Step step : kSteps) {
      for (const uint32_t index : indices_) {
        const absl::Status status = (this->*step)(index, *Saved(index));
        if (!status.ok()) return Annotate(status, absl::StrCat("unix socket ", context_.FdName(index)));
      }
    }
    return absl::OkStatus();
  }

 private:
  const image::UnixSocketT* Saved(uint32_t index) const { return context_.open_file(index).resource.AsUnixSocket(); }
  int Fd(uint32_t index) const { return context_.open_files[index].get(); }

  // Each is the other's peer.
  bool IsPair(uint32_t index, const image::UnixSocketT& saved) const {
    if (saved.peer == kNone || saved.peer == index) return false;
    const image::UnixSocketT* peer = Saved(saved.peer);
    return peer != nullptr && peer->peer == index;
  }

  // The in-process listener whose name an end of a stream connection has: it was accepted there.
  uint32_t ListenerOf(const image::UnixSocketT& saved) const {
    if (saved.address.empty() || saved.type == SOCK_DGRAM) return kNone;
    for (const uint32_t i : indices_) {
      const image::UnixSocketT& other = *Saved(i);
      if (other.state == State::Listening && other.type == saved.type && other.address == saved.address) return i;
    }
    return kNone;
  }

  absl::Status Keep(uint32_t index, int fd) {
    MOULT_ASSIGN_OR_RETURN(context_.open_files[index], context_.MoveUp(UniqueFd(fd)));
    return absl::OkStatus();
  }

  absl::Status Open(uint32_t index, const image::UnixSocketT& saved) {
    if (Fd(index) >= 0) return absl::OkStatus();
    const bool pair = IsPair(index, saved);
    if (pair && (ListenerOf(saved) != kNone || ListenerOf(*Saved(saved.peer)) != kNone)) return absl::OkStatus();  // Accept
    // One whose peer has gone gets one for the time of filling its queue.
    const bool orphan = saved.state == State::Closed || (saved.state == State::Connected && saved.peer == kNone && saved.peer_address.empty());
    if (!pair && !orphan) {
      const int fd = socket(AF_UNIX, saved.type | SOCK_CLOEXEC, 0);
      return fd < 0 ? ErrnoStatus("make it") : Keep(index, fd);
    }
    int fds[2];
    if (socketpair(AF_UNIX, saved.type | SOCK_CLOEXEC, 0, fds) < 0) return ErrnoStatus("make a pair");
    if (orphan) {
      MOULT_ASSIGN_OR_RETURN(peers_[index], context_.MoveUp(UniqueFd(fds[1])));
      return Keep(index, fds[0]);
    }
    UniqueFd other(fds[1]);
    MOULT_RETURN_IF_ERROR(Keep(index, fds[0]));
    return Keep(saved.peer, other.Release());
  }

  absl::Status Name(uint32_t index, const image::UnixSocketT& saved) {
    const bool owns_name = saved.type == SOCK_DGRAM || saved.state == State::Listening || saved.state == State::Bound;
    if (!owns_name || saved.address.empty()) return absl::OkStatus();
    MOULT_RETURN_IF_ERROR(BindName(Fd(index), saved, context_.file(context_.process.cwd).path));
    if (saved.state == State::Listening && listen(Fd(index), saved.backlog) < 0) return ErrnoStatus("listen");
    return absl::OkStatus();
  }

  // Connections that the process made to its own listener, accepted since.
  absl::Status Accept(uint32_t index, const image::UnixSocketT& saved) {
    if (Fd(index) >= 0 || !IsPair(index, saved)) return absl::OkStatus();
    const uint32_t listener = ListenerOf(saved);
    if (listener == kNone) return absl::OkStatus();  // at its peer's turn
    UniqueFd client(socket(AF_UNIX, saved.type | SOCK_CLOEXEC, 0));
    if (!client.valid()) return ErrnoStatus("make a client");
    MOULT_RETURN_IF_ERROR(ConnectTo(client.get(), saved.address, context_.file(context_.process.cwd).path));
    while (true) {
      UniqueFd server(accept4(Fd(listener), nullptr, nullptr, SOCK_CLOEXEC));
      if (!server.valid()) return ErrnoStatus("accept");
      // Somebody else may have been quicker; he meets a server that was not ready yet.
      ucred peer{};
      socklen_t size = sizeof(peer);
      if (getsockopt(server.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0) return ErrnoStatus("SO_PEERCRED");
      if (peer.pid != getpid()) continue;
      MOULT_RETURN_IF_ERROR(Keep(index, server.Release()));
      return Keep(saved.peer, client.Release());
    }
  }

  // The socket that the message came from, or one that stands in for it.
  absl::StatusOr<int> SenderOf(uint32_t index, const image::UnixSocketT& saved, const image::UnixMessageT& message) {
    if (peers_[index].valid()) return peers_[index].get();
    if (IsPair(index, saved)) return Fd(saved.peer);
    for (const uint32_t i : indices_) {
      if (!message.sender.empty() && Saved(i)->type == saved.type && Saved(i)->address == message.sender) return Fd(i);
    }
    if (!stand_in_.valid()) {
      const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
      if (fd < 0) return ErrnoStatus("make a sender");
      MOULT_ASSIGN_OR_RETURN(stand_in_, context_.MoveUp(UniqueFd(fd)));
    }
    return stand_in_.get();
  }

  absl::Status Fill(uint32_t index, const image::UnixSocketT& saved) {
    size_t total = 0;
    for (const auto& message : saved.queue) total += message->data.size() + 1024;
    for (const auto& message : saved.queue) {
      MOULT_ASSIGN_OR_RETURN(const int sender, SenderOf(index, saved, *message));
      const bool connected = peers_[index].valid() || IsPair(index, saved);
      int before = 0;
      MOULT_RETURN_IF_ERROR(RaiseSendBuffer(sender, total, &before));
      const absl::Status sent = connected ? SendMessage(sender, *message, {})
                                          : WithWorkingDirectory(saved.address, context_.file(context_.process.cwd).path,
                                                                 [&] { return SendMessage(sender, *message, saved.address); });
      MOULT_RETURN_IF_ERROR(ResetSendBuffer(sender, before));
      MOULT_RETURN_IF_ERROR(sent);
    }
    return absl::OkStatus();
  }

  absl::Status ConnectName(uint32_t index, const image::UnixSocketT& saved) {
    if (saved.state != State::Connected || IsPair(index, saved)) return absl::OkStatus();
    const std::string& cwd = context_.file(context_.process.cwd).path;
    if (saved.peer != kNone) {
      const std::vector<uint8_t>& name = saved.peer_address.empty() ? Saved(saved.peer)->address : saved.peer_address;
      return ConnectTo(Fd(index), name, cwd);
    }
    if (saved.peer_address.empty()) return absl::OkStatus();
    // A stream gets into the queue of the process's own listener, which has yet to accept it.
    const absl::Status connected = ConnectTo(Fd(index), saved.peer_address, cwd);
    if (connected.ok() || saved.type != SOCK_DGRAM) return connected;
    // Nobody is at that address now (a log daemon, say). As when one goes away: the next send tells.
    const UniqueFd gone(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!gone.valid()) return ErrnoStatus("make a peer");
    sa_family_t family = AF_UNIX;
    if (bind(gone.get(), reinterpret_cast<const sockaddr*>(&family), sizeof(family)) < 0) return ErrnoStatus("name a peer");
    return ConnectToSocket(Fd(index), gone.get());
  }

  absl::Status Shut(uint32_t index, const image::UnixSocketT& saved) {
    peers_[index].Reset();
    if (saved.shutdown == 0 || saved.state == State::Closed || saved.state == State::Listening) return absl::OkStatus();
    const int how = saved.shutdown == 3 ? SHUT_RDWR : saved.shutdown == 2 ? SHUT_WR : SHUT_RD;
    if (shutdown(Fd(index), how) < 0 && errno != ENOTCONN) return ErrnoStatus("shutdown");
    return absl::OkStatus();
  }

  // Last, since SO_PASSCRED gives names to sockets that send, and small buffers hold no queue.
  absl::Status Finish(uint32_t index, const image::UnixSocketT& saved) { return ApplyOptions(Fd(index), saved.options); }

  RestoreContext& context_;
  std::vector<uint32_t> indices_;
  std::vector<UniqueFd> peers_;  // stand-ins for peers that have gone, by open file
  UniqueFd stand_in_;
};

}  // namespace

absl::StatusOr<UniqueFd> RestoreUnixSocket(RestoreContext& context, uint32_t index) {
  if (context.open_files.size() < context.image.open_files.size()) {
    context.open_files.resize(context.image.open_files.size());
  }
  MOULT_RETURN_IF_ERROR(Sockets(context).Make());
  return std::move(context.open_files[index]);
}

}  // namespace moult::engine
