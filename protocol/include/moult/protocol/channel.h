// SPDX-License-Identifier: Apache-2.0
//
// Messages over a connected stream socket, with a deadline on every wait.
#ifndef MOULT_PROTOCOL_CHANNEL_H_
#define MOULT_PROTOCOL_CHANNEL_H_

#include <chrono>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "moult/base/unique_fd.h"
#include "moult/protocol/frame.h"
#include "moult/protocol/message.h"

namespace moult::rpc {

using Clock = std::chrono::steady_clock;

// How much one send() may take. A guest whose kernel spreads a larger packet over several buffers (6.12) is not
// understood by user-space vsock devices that expect one (vhost-device-vsock 0.3): they lose the packet. The limit
// is well below where the kernel begins with that, 32 KiB; other sockets have none.
size_t SendLimit(int fd);

// Blocking; one user at a time. After any error but an Error response the stream is of no use any more: close
// it and connect again, that is the resync of this protocol. kUnavailable: the peer has closed it or is gone.
// kDeadlineExceeded: nothing came in time. kDataLoss: what came breaks the protocol.
class Channel {
 public:
  // Makes `fd` non-blocking.
  explicit Channel(UniqueFd fd);

  int fd() const { return fd_.get(); }
  // For a connection that becomes a plain stream. Bytes that were read ahead: none, it never reads ahead.
  UniqueFd TakeFd() { return std::move(fd_); }

  // Client. Sends a request and waits for its response; an Error response is the status it carries.
  absl::StatusOr<std::unique_ptr<ResponseT>> Call(const RequestT& request, Clock::time_point deadline);
  // The halves of Call, for data frames in between. Send returns the frame's id.
  absl::StatusOr<uint64_t> Send(const RequestT& request, Clock::time_point deadline);
  absl::StatusOr<std::unique_ptr<ResponseT>> ReceiveResponse(uint64_t id, Clock::time_point deadline);

  // Server. Waits for a request as long as it takes when no deadline is given.
  absl::StatusOr<std::pair<uint64_t, std::unique_ptr<RequestT>>> ReceiveRequest(
      Clock::time_point deadline = Clock::time_point::max());
  absl::Status Respond(uint64_t id, const ResponseT& response, Clock::time_point deadline);

  // Page content, cut into data frames.
  absl::Status SendData(uint64_t id, absl::Span<const std::byte> data, Clock::time_point deadline);
  // Fills all of `to` with the data frames of call `id` that follow.
  absl::Status ReceiveData(uint64_t id, absl::Span<std::byte> to, Clock::time_point deadline);

 private:
  absl::Status WriteAll(std::string_view header, std::string_view payload, Clock::time_point deadline);
  absl::Status ReadAll(char* to, size_t size, Clock::time_point deadline);
  absl::StatusOr<FrameHeader> ReadHeader(uint64_t max_message, Clock::time_point deadline);
  absl::StatusOr<std::string> ReadPayload(uint64_t length, Clock::time_point deadline);

  UniqueFd fd_;
  uint64_t next_id_ = 1;
  uint64_t data_left_ = 0;  // of a data frame that ReceiveData has begun
};

}  // namespace moult::rpc

#endif  // MOULT_PROTOCOL_CHANNEL_H_
