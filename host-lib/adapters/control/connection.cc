// SPDX-License-Identifier: Apache-2.0
#include "connection.h"

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "message.h"

namespace moult::control {
namespace {

constexpr size_t kMaxUnsent = 8u << 20;  // what a client may leave untaken

}  // namespace

short Connection::events() const {
  // A client that has sent a whole line too much ahead waits in its own socket.
  const bool read = !paused && !close_when_sent && in_.size() < kMaxLine;
  return static_cast<short>((read ? POLLIN : 0) | (out_.empty() ? 0 : POLLOUT));
}

bool Connection::Receive() {
  std::array<char, 16384> chunk;
  const ssize_t got = recv(fd_.get(), chunk.data(), chunk.size(), MSG_DONTWAIT);
  if (got > 0) in_.append(chunk.data(), static_cast<size_t>(got));
  return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
}

absl::StatusOr<std::optional<std::string>> Connection::NextLine() {
  const size_t end = in_.find('\n', searched_);
  if (end == std::string::npos) {
    searched_ = in_.size();
    if (in_.size() >= kMaxLine) {
      return absl::InvalidArgumentError(absl::StrCat("request is longer than ", kMaxLine, " bytes"));
    }
    return std::optional<std::string>();
  }
  std::string line = in_.substr(0, end);
  in_.erase(0, end + 1);
  searched_ = 0;
  return std::optional<std::string>(std::move(line));
}

void Connection::Send(std::string line) { out_ += line; }

bool Connection::Flush() {
  if (out_.empty()) return true;
  const ssize_t put = send(fd_.get(), out_.data(), out_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  if (put > 0) out_.erase(0, static_cast<size_t>(put));
  if (put < 0 && errno != EAGAIN && errno != EINTR) return false;
  return out_.size() <= kMaxUnsent;
}

}  // namespace moult::control
