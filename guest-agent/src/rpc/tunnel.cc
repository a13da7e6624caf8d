// SPDX-License-Identifier: Apache-2.0
#include "rpc/tunnel.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "moult/protocol/channel.h"

namespace moult::agent {

Tunnel::Flow::Flow(int from, int to) : from_(from), to_(to), most_(rpc::SendLimit(to)) {}

bool Tunnel::Flow::Read() {
  const ssize_t n = recv(from_, buffer_.data(), buffer_.size(), MSG_DONTWAIT);
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  begin_ = 0;
  end_ = static_cast<size_t>(n);
  if (n == 0) {
    ended_ = true;
    shutdown(to_, SHUT_WR);
  }
  return true;
}

bool Tunnel::Flow::Write() {
  const ssize_t n = send(to_, buffer_.data() + begin_, std::min(end_ - begin_, most_), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  begin_ += static_cast<size_t>(n);
  return true;
}

Tunnel::Tunnel(UniqueFd host, UniqueFd function)
    : host_(std::move(host)),
      function_(std::move(function)),
      down_(host_.get(), function_.get()),
      up_(function_.get(), host_.get()) {}

Tunnel::~Tunnel() { shutdown(host_.get(), SHUT_RDWR); }

std::array<pollfd, 2> Tunnel::Wanted() const {
  const auto events = [](const Flow& reads, const Flow& writes) {
    return static_cast<short>((reads.wants_read() ? POLLIN : 0) | (writes.wants_write() ? POLLOUT : 0));
  };
  std::array<pollfd, 2> wanted = {pollfd{host_.get(), events(down_, up_), 0},
                                  pollfd{function_.get(), events(up_, down_), 0}};
  // A side that is not asked about must not wake us over and over by its hang-up.
  for (pollfd& fd : wanted) {
    if (fd.events == 0) fd.fd = -1;
  }
  return wanted;
}

bool Tunnel::Advance(const pollfd* polled) {
  constexpr short kReadable = POLLIN | POLLHUP | POLLERR;
  constexpr short kWritable = POLLOUT | POLLHUP | POLLERR;
  const auto can_read = [&](int i) { return (polled[i].revents & kReadable) != 0; };
  const auto can_write = [&](int i) { return (polled[i].revents & kWritable) != 0; };
  // What was read can be written at once, as a rule; poll is asked when not.
  if (down_.wants_write() && can_write(1) && !down_.Write()) return false;
  if (up_.wants_write() && can_write(0) && !up_.Write()) return false;
  const bool heard = down_.wants_read() && can_read(0);
  if (heard && (!down_.Read() || (down_.wants_write() && !down_.Write()))) return false;
  if (up_.wants_read() && can_read(1) && (!up_.Read() || (up_.wants_write() && !up_.Write()))) return false;
  if (!up_.ended()) return true;
  // It has sent all. One that has closed its end takes nothing any more, either.
  if (down_.ended() || (polled[1].revents & (POLLHUP | POLLERR)) != 0) return false;
  // What the host has sent waits as long as the function takes, which may be frozen.
  if (down_.wants_write()) {
    deadline_.reset();
    return true;
  }
  if (heard || !deadline_) deadline_ = Clock::now() + kLinger;
  return Clock::now() < *deadline_;
}

}  // namespace moult::agent
