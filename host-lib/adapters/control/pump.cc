// SPDX-License-Identifier: Apache-2.0
#include "pump.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <cerrno>

namespace moult::control {
namespace {

constexpr size_t kBuffer = 64 * 1024;

bool MayRetry(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

}  // namespace

Pump::Pump(UniqueFd client, UniqueFd stream, std::string first, std::string pending)
    : client_(std::move(client)), stream_(std::move(stream)) {
  down_.buffer = std::move(first);
  up_.buffer = std::move(pending);
  fcntl(stream_.get(), F_SETFL, fcntl(stream_.get(), F_GETFL) | O_NONBLOCK);
}

bool Pump::WantsRead(const Direction& direction) {
  return !direction.ended && direction.buffer.size() < kBuffer;
}

void Pump::Want(pollfd* client, pollfd* stream) const {
  const auto want = [](int fd, const Direction& in, const Direction& out) {
    const int events = (WantsRead(in) ? POLLIN : 0) | (out.buffer.empty() ? 0 : POLLOUT);
    // With nothing to wait for, poll would still report a hang-up, again and again.
    return pollfd{events == 0 ? -1 : fd, static_cast<short>(events), 0};
  };
  *client = want(client_.get(), up_, down_);
  *stream = want(stream_.get(), down_, up_);
}

bool Pump::Carry(int from, int to, Direction& direction) {
  if (WantsRead(direction)) {
    const size_t had = direction.buffer.size();
    direction.buffer.resize(kBuffer);
    const ssize_t got = recv(from, direction.buffer.data() + had, kBuffer - had, MSG_DONTWAIT);
    const int error = errno;
    direction.buffer.resize(had + (got > 0 ? static_cast<size_t>(got) : 0));
    if (got == 0) direction.ended = true;
    if (got < 0 && !MayRetry(error)) return false;
  }
  if (!direction.buffer.empty()) {
    const ssize_t put =
        send(to, direction.buffer.data(), direction.buffer.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (put < 0 && !MayRetry(errno)) return false;
    if (put > 0) direction.buffer.erase(0, static_cast<size_t>(put));
  }
  if (direction.ended && direction.buffer.empty() && !direction.shut) {
    shutdown(to, SHUT_WR);
    direction.shut = true;
  }
  return true;
}

bool Pump::Process() {
  if (!Carry(client_.get(), stream_.get(), up_) || !Carry(stream_.get(), client_.get(), down_)) return false;
  return !(up_.shut && down_.shut);
}

}  // namespace moult::control
