// SPDX-License-Identifier: Apache-2.0
#include "rpc/connection.h"

#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include "moult/protocol/channel.h"
#include "moult/protocol/message.h"

namespace moult::agent {
namespace {

constexpr size_t kPayloadStep = 1u << 20;

// Bytes that came, 0: none now.
absl::StatusOr<size_t> Receive(int fd, char* to, size_t size) {
  const ssize_t n = recv(fd, to, size, MSG_DONTWAIT);
  if (n > 0) return static_cast<size_t>(n);
  if (n == 0) return absl::UnavailableError("the peer has closed the connection");
  if (errno == EAGAIN || errno == EINTR) return 0;
  return ErrnoStatus("receive");
}

}  // namespace

absl::StatusOr<std::optional<rpc::Frame>> Connection::Read() {
  if (header_used_ < header_.size()) {
    MOULT_ASSIGN_OR_RETURN(const size_t n,
                           Receive(fd(), header_.data() + header_used_, header_.size() - header_used_));
    if (n > 0 && header_used_ == 0) frame_deadline_ = Clock::now() + message_time_;
    header_used_ += n;
    if (header_used_ < header_.size()) return std::nullopt;
    MOULT_ASSIGN_OR_RETURN(decoded_, rpc::DecodeHeader({header_.data(), header_.size()}, rpc::kMaxRequest));
    if (decoded_.kind != rpc::FrameKind::kRequest)
      return absl::DataLossError(
          absl::StrCat("a request was due, a frame of kind ", static_cast<int>(decoded_.kind), " came"));
  }
  if (payload_.size() < decoded_.length) {
    // Grows with what has come: a length alone must not cost memory.
    const size_t at = payload_.size();
    payload_.resize(std::min<uint64_t>(decoded_.length, at + kPayloadStep));
    auto n = Receive(fd(), payload_.data() + at, payload_.size() - at);
    payload_.resize(at + (n.ok() ? *n : 0));
    MOULT_RETURN_IF_ERROR(n.status());
    if (payload_.size() < decoded_.length) return std::nullopt;
  }
  header_used_ = 0;
  return rpc::Frame{decoded_.kind, decoded_.id, std::exchange(payload_, {})};
}

Connection::Debt Connection::Owes() const {
  if (busy) return {};  // it waits for us
  if (has_output()) return {"the host did not take an answer in time", out_deadline_};
  if (in_frame()) return {"a request did not come whole in time", frame_deadline_};
  if (!said_hello) return {"the host did not say Hello in time", hello_deadline_};
  return {};
}

absl::Status Connection::Write() {
  while (!out_.empty()) {
    const ssize_t n =
        send(fd(), out_.data(), std::min(out_.size(), rpc::SendLimit(fd())), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno == EAGAIN) return absl::OkStatus();
    if (n < 0 && errno != EINTR) return ErrnoStatus("send");
    if (n > 0) out_.erase(0, static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

}  // namespace moult::agent
