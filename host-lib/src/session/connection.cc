// SPDX-License-Identifier: Apache-2.0
#include "session/connection.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"

namespace moult::host {
namespace {

// Between two looks at other operations.
constexpr size_t kStepBytes = 1 << 20;

absl::Status StreamError(const char* operation) {
  if (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN) {
    return absl::UnavailableError("the agent has closed the connection");
  }
  return absl::UnavailableError(ErrnoStatus(operation).message());
}

}  // namespace

bool Connection::IsQuiet() const {
  pollfd poll_fd{fd_.get(), POLLIN | POLLRDHUP, 0};
  return poll(&poll_fd, 1, 0) == 0;
}

absl::Status Connection::WrongKind(rpc::RequestBody verb, rpc::ResponseBody got, rpc::ResponseBody wanted) {
  return absl::DataLossError(absl::StrCat("the agent answered ", rpc::VerbName(verb), " with ",
                                          rpc::EnumNameResponseBody(got), ", not ",
                                          rpc::EnumNameResponseBody(wanted)));
}

Task<absl::Status> Connection::WriteAll(Strand* strand, std::string_view header, std::string_view payload) {
  size_t since_yield = 0;
  while (!header.empty() || !payload.empty()) {
    iovec parts[2] = {{const_cast<char*>(header.data()), header.size()},
                      {const_cast<char*>(payload.data()), payload.size()}};
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = 2;
    const ssize_t n = sendmsg(fd_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) co_return StreamError("send");
      MOULT_CO_RETURN_IF_ERROR(co_await strand->Writable(fd_.get()));
      continue;
    }
    const size_t of_header = std::min(header.size(), static_cast<size_t>(n));
    header.remove_prefix(of_header);
    payload.remove_prefix(static_cast<size_t>(n) - of_header);
    since_yield += static_cast<size_t>(n);
    if (since_yield >= kStepBytes) {
      since_yield = 0;
      MOULT_CO_RETURN_IF_ERROR(co_await strand->Yield());
    }
  }
  co_return absl::OkStatus();
}

Task<absl::Status> Connection::ReadAll(Strand* strand, char* to, size_t size) {
  size_t since_yield = 0;
  while (size > 0) {
    const ssize_t n = recv(fd_.get(), to, size, MSG_DONTWAIT);
    if (n == 0) co_return absl::UnavailableError("the agent has closed the connection");
    if (n < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN) co_return StreamError("receive");
      MOULT_CO_RETURN_IF_ERROR(co_await strand->Readable(fd_.get()));
      continue;
    }
    to += n;
    size -= static_cast<size_t>(n);
    since_yield += static_cast<size_t>(n);
    if (since_yield >= kStepBytes && size > 0) {
      since_yield = 0;
      MOULT_CO_RETURN_IF_ERROR(co_await strand->Yield());
    }
  }
  co_return absl::OkStatus();
}

Task<absl::Status> Connection::Send(Strand* strand, rpc::RequestT request) {
  const std::string payload = rpc::Serialize(request);
  if (payload.size() > rpc::kMaxRequest) {
    co_return absl::ResourceExhaustedError(absl::StrCat("request ", rpc::VerbName(request.body.type), " of ",
                                                        payload.size(), " bytes, the agent takes ",
                                                        rpc::kMaxRequest));
  }
  id_ = next_id_++;
  const rpc::FrameHeader fields{rpc::FrameKind::kRequest, id_, payload.size()};
  const auto header = rpc::EncodeHeader(fields);
  const std::string_view header_bytes(header.data(), header.size());
  broken_ = true;  // Until the whole of it is out.
  absl::Status status = co_await WriteAll(strand, header_bytes, payload);
  if (!status.ok()) co_return Annotate(status, rpc::VerbName(request.body.type));
  broken_ = false;
  co_return absl::OkStatus();
}

Task<absl::StatusOr<std::unique_ptr<rpc::ResponseT>>> Connection::ReceiveFrame(Strand* strand, uint64_t max) {
  char bytes[rpc::kFrameHeaderSize];
  MOULT_CO_RETURN_IF_ERROR(co_await ReadAll(strand, bytes, sizeof(bytes)));
  const std::string_view header_bytes(bytes, sizeof(bytes));
  MOULT_CO_ASSIGN_OR_RETURN(const rpc::FrameHeader header, rpc::DecodeHeader(header_bytes, max));
  if (header.kind != rpc::FrameKind::kResponse) {
    co_return absl::DataLossError(
        absl::StrCat("frame: a response was due, kind ", static_cast<int>(header.kind), " came"));
  }
  if (header.id != id_) {
    co_return absl::DataLossError(
        absl::StrCat("frame: a response to call ", header.id, " came, not to ", id_));
  }
  // Grows with what has come: a length alone must not cost memory.
  std::string payload;
  while (payload.size() < header.length) {
    const size_t at = payload.size();
    payload.resize(std::min<uint64_t>(header.length, at + kStepBytes));
    MOULT_CO_RETURN_IF_ERROR(co_await ReadAll(strand, payload.data() + at, payload.size() - at));
  }
  co_return rpc::ParseResponse(payload);
}

Task<absl::StatusOr<std::unique_ptr<rpc::ResponseT>>> Connection::Receive(Strand* strand,
                                                                          rpc::RequestBody verb,
                                                                          uint64_t max) {
  broken_ = true;  // Until a whole answer is in.
  auto response = co_await ReceiveFrame(strand, max);
  if (!response.ok()) co_return Annotate(response.status(), rpc::VerbName(verb));
  broken_ = false;
  if (const auto* error = (*response)->body.AsError()) {
    // It names the verb itself.
    co_return Annotate(rpc::StatusOf(*error), "agent");
  }
  co_return std::move(response);
}

Task<absl::Status> Connection::SendData(Strand* strand, absl::Span<const std::byte> data) {
  broken_ = true;
  while (!data.empty()) {
    const auto piece = data.subspan(0, rpc::kMaxDataFrame);
    const rpc::FrameHeader fields{rpc::FrameKind::kData, id_, piece.size()};
    const auto header = rpc::EncodeHeader(fields);
    const std::string_view header_bytes(header.data(), header.size());
    const std::string_view payload(reinterpret_cast<const char*>(piece.data()), piece.size());
    MOULT_CO_RETURN_IF_ERROR(co_await WriteAll(strand, header_bytes, payload));
    data.remove_prefix(piece.size());
  }
  broken_ = false;
  co_return absl::OkStatus();
}

Task<absl::Status> Connection::ReceiveData(Strand* strand, absl::Span<std::byte> to) {
  broken_ = true;
  while (!to.empty()) {
    if (data_left_ == 0) {
      char bytes[rpc::kFrameHeaderSize];
      MOULT_CO_RETURN_IF_ERROR(co_await ReadAll(strand, bytes, sizeof(bytes)));
      const std::string_view header_bytes(bytes, sizeof(bytes));
      MOULT_CO_ASSIGN_OR_RETURN(const rpc::FrameHeader header, rpc::DecodeHeader(header_bytes, 0));
      if (header.kind != rpc::FrameKind::kData || header.id != id_ || header.length == 0) {
        co_return absl::DataLossError(absl::StrCat("frame: data of call ", id_, " was due, kind ",
                                                   static_cast<int>(header.kind), " of call ", header.id,
                                                   " with ", header.length, " bytes came"));
      }
      data_left_ = header.length;
    }
    const size_t piece = std::min<uint64_t>(to.size(), data_left_);
    MOULT_CO_RETURN_IF_ERROR(co_await ReadAll(strand, reinterpret_cast<char*>(to.data()), piece));
    to.remove_prefix(piece);
    data_left_ -= piece;
  }
  broken_ = data_left_ != 0;
  co_return absl::OkStatus();
}

}  // namespace moult::host
