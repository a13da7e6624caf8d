// SPDX-License-Identifier: Apache-2.0
#include "moult/protocol/channel.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"

namespace moult::rpc {
namespace {

absl::Status PeerGone() { return absl::UnavailableError("the peer has closed the connection"); }

absl::Status StreamError(const char* operation) {
  if (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN) return PeerGone();
  return ErrnoStatus(operation);
}

absl::Status Await(int fd, short events, Clock::time_point deadline, const char* what) {
  for (;;) {
    int timeout = -1;
    if (deadline != Clock::time_point::max()) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
      if (left <= 0) return absl::DeadlineExceededError(absl::StrCat("the peer did not ", what, " in time"));
      timeout = static_cast<int>(std::min<int64_t>(left, 1 << 30));
    }
    pollfd poll_fd{fd, events, 0};
    const int n = poll(&poll_fd, 1, timeout);
    if (n > 0) return absl::OkStatus();
    if (n < 0 && errno != EINTR) return ErrnoStatus("poll");
  }
}

absl::Status OutOfStep(const char* wanted, FrameKind got) {
  return absl::DataLossError(
      absl::StrCat("frame: a ", wanted, " was due, kind ", static_cast<int>(got), " came"));
}

}  // namespace

size_t SendLimit(int fd) {
  int domain = 0;
  socklen_t size = sizeof(domain);
  const bool vsock = getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_VSOCK;
  return vsock ? 16384 : std::numeric_limits<size_t>::max();
}

Channel::Channel(UniqueFd fd) : fd_(std::move(fd)) {
  const int flags = fcntl(fd_.get(), F_GETFL);
  if (flags >= 0) fcntl(fd_.get(), F_SETFL, flags | O_NONBLOCK);
}

absl::Status Channel::WriteAll(std::string_view header, std::string_view payload,
                               Clock::time_point deadline) {
  const size_t most = SendLimit(fd_.get());
  while (!header.empty() || !payload.empty()) {
    iovec parts[2] = {{const_cast<char*>(header.data()), header.size()},
                      {const_cast<char*>(payload.data()), std::min(payload.size(), most - header.size())}};
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = 2;
    const ssize_t n = sendmsg(fd_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) return StreamError("send");
      MOULT_RETURN_IF_ERROR(Await(fd_.get(), POLLOUT, deadline, "take a message"));
      continue;
    }
    const size_t of_header = std::min(header.size(), static_cast<size_t>(n));
    header.remove_prefix(of_header);
    payload.remove_prefix(static_cast<size_t>(n) - of_header);
  }
  return absl::OkStatus();
}

absl::Status Channel::ReadAll(char* to, size_t size, Clock::time_point deadline) {
  while (size > 0) {
    const ssize_t n = recv(fd_.get(), to, size, MSG_DONTWAIT);
    if (n == 0) return PeerGone();
    if (n < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) return StreamError("receive");
      MOULT_RETURN_IF_ERROR(Await(fd_.get(), POLLIN, deadline, "answer"));
      continue;
    }
    to += n;
    size -= static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::StatusOr<FrameHeader> Channel::ReadHeader(uint64_t max_message, Clock::time_point deadline) {
  char bytes[kFrameHeaderSize];
  MOULT_RETURN_IF_ERROR(ReadAll(bytes, sizeof(bytes), deadline));
  return DecodeHeader({bytes, sizeof(bytes)}, max_message);
}

absl::StatusOr<std::string> Channel::ReadPayload(uint64_t length, Clock::time_point deadline) {
  // Grows with what has come: a length alone must not cost memory.
  std::string payload;
  while (payload.size() < length) {
    const size_t at = payload.size();
    payload.resize(std::min<uint64_t>(length, at + kMaxDataFrame));
    MOULT_RETURN_IF_ERROR(ReadAll(payload.data() + at, payload.size() - at, deadline));
  }
  return payload;
}

absl::StatusOr<uint64_t> Channel::Send(const RequestT& request, Clock::time_point deadline) {
  const std::string payload = Serialize(request);
  if (payload.size() > kMaxRequest)
    return absl::ResourceExhaustedError(absl::StrCat("request ", VerbName(request.body.type), " of ",
                                                     payload.size(), " bytes, the peer takes ", kMaxRequest));
  const uint64_t id = next_id_++;
  const auto header = EncodeHeader({FrameKind::kRequest, id, payload.size()});
  MOULT_RETURN_IF_ERROR(WriteAll({header.data(), header.size()}, payload, deadline));
  return id;
}

absl::StatusOr<std::unique_ptr<ResponseT>> Channel::ReceiveResponse(uint64_t id, Clock::time_point deadline) {
  MOULT_ASSIGN_OR_RETURN(const FrameHeader header, ReadHeader(kMaxResponse, deadline));
  if (header.kind != FrameKind::kResponse) return OutOfStep("response", header.kind);
  if (header.id != id)
    return absl::DataLossError(absl::StrCat("frame: a response to call ", header.id, " came, not to ", id));
  MOULT_ASSIGN_OR_RETURN(const std::string payload, ReadPayload(header.length, deadline));
  MOULT_ASSIGN_OR_RETURN(auto response, ParseResponse(payload));
  if (const auto* error = response->body.AsError()) return StatusOf(*error);
  return response;
}

absl::StatusOr<std::unique_ptr<ResponseT>> Channel::Call(const RequestT& request,
                                                         Clock::time_point deadline) {
  MOULT_ASSIGN_OR_RETURN(const uint64_t id, Send(request, deadline));
  return ReceiveResponse(id, deadline);
}

absl::StatusOr<std::pair<uint64_t, std::unique_ptr<RequestT>>> Channel::ReceiveRequest(
    Clock::time_point deadline) {
  MOULT_ASSIGN_OR_RETURN(const FrameHeader header, ReadHeader(kMaxRequest, deadline));
  if (header.kind != FrameKind::kRequest) return OutOfStep("request", header.kind);
  MOULT_ASSIGN_OR_RETURN(const std::string payload, ReadPayload(header.length, deadline));
  MOULT_ASSIGN_OR_RETURN(auto request, ParseRequest(payload));
  return std::make_pair(header.id, std::move(request));
}

absl::Status Channel::Respond(uint64_t id, const ResponseT& response, Clock::time_point deadline) {
  const std::string payload = Serialize(response);
  if (payload.size() > kMaxResponse)
    return absl::ResourceExhaustedError(
        absl::StrCat("response of ", payload.size(), " bytes, the peer takes ", kMaxResponse));
  const auto header = EncodeHeader({FrameKind::kResponse, id, payload.size()});
  return WriteAll({header.data(), header.size()}, payload, deadline);
}

absl::Status Channel::SendData(uint64_t id, absl::Span<const std::byte> data, Clock::time_point deadline) {
  while (!data.empty()) {
    const auto piece = data.subspan(0, kMaxDataFrame);
    const auto header = EncodeHeader({FrameKind::kData, id, piece.size()});
    MOULT_RETURN_IF_ERROR(WriteAll({header.data(), header.size()},
                                   {reinterpret_cast<const char*>(piece.data()), piece.size()}, deadline));
    data.remove_prefix(piece.size());
  }
  return absl::OkStatus();
}

absl::Status Channel::ReceiveData(uint64_t id, absl::Span<std::byte> to, Clock::time_point deadline) {
  while (!to.empty()) {
    if (data_left_ == 0) {
      MOULT_ASSIGN_OR_RETURN(const FrameHeader header, ReadHeader(0, deadline));
      if (header.kind != FrameKind::kData) return OutOfStep("data frame", header.kind);
      if (header.id != id || header.length == 0)
        return absl::DataLossError(
            absl::StrCat("frame: ", header.length, " bytes of data of call ", header.id, ", wanted of ", id));
      data_left_ = header.length;
    }
    const size_t piece = std::min<uint64_t>(to.size(), data_left_);
    MOULT_RETURN_IF_ERROR(ReadAll(reinterpret_cast<char*>(to.data()), piece, deadline));
    to.remove_prefix(piece);
    data_left_ -= piece;
  }
  return absl::OkStatus();
}

}  // namespace moult::rpc
