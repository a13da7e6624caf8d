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

constexpr size_t kMaxUnsent = 64u << 20;  // what a client may leave untaken: a page report of a large guest has some MB
constexpr size_t kEnoughUnsent = 64u << 10;

}  // namespace

short Connection::events() const {
  // A client that has sent a whole line too much ahead waits in its own socket.
  const bool read = !paused && !close_when_sent && !input_ended_ && in_.size() < kMaxLine;
  return static_cast<short>((read ? POLLIN : 0) | (out_.empty() ? 0 : POLLOUT));
}

bool Connection::Receive() {
  std::array<char, 16384> chunk;
  const ssize_t got = recv(fd_.get(), chunk.data(), chunk.size(), MSG_DONTWAIT);
  if (got > 0) in_.append(chunk.data(), static_cast<size_t>(got));
  if (got == 0) input_ended_ = true;
  return got >= 0 || errno == EAGAIN || errno == EINTR;
}

absl::StatusOr<std::optional<std::string>> Connection::NextLine() {
  const size_t end = in_.find('\n', searched_);
  if (end == std::string::npos || end - begin_ >= kMaxLine) {
    // Only now, so that many short lines are not moved up one by one.
    in_.erase(0, begin_);
    begin_ = 0;
    searched_ = in_.size();
    if (in_.size() < kMaxLine) return std::optional<std::string>();
    return absl::InvalidArgumentError(absl::StrCat("request is longer than ", kMaxLine, " bytes"));
  }
  std::string line = in_.substr(begin_, end - begin_);
  begin_ = searched_ = end + 1;
  return std::optional<std::string>(std::move(line));
}

std::string Connection::TakeInput() {
  in_.erase(0, begin_);
  return std::move(in_);
}

bool Connection::backlogged() const { return out_.size() > kEnoughUnsent; }

void Connection::Send(std::string line) { out_ += line; }

bool Connection::Flush() {
  if (out_.empty()) return true;
  const ssize_t put = send(fd_.get(), out_.data(), out_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  if (put > 0) out_.erase(0, static_cast<size_t>(put));
  if (put < 0 && errno != EAGAIN && errno != EINTR) return false;
  return out_.size() <= kMaxUnsent;
}

}  // namespace moult::control
