// SPDX-License-Identifier: Apache-2.0
//
// One connection to the agent: requests, responses and data, as coroutines. The asynchronous twin of
// rpc::Channel.
#ifndef MOULT_HOST_SESSION_CONNECTION_H_
#define MOULT_HOST_SESSION_CONNECTION_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "moult/base/unique_fd.h"
#include "moult/protocol/frame.h"
#include "moult/protocol/message.h"
#include "reactor/reactor.h"
#include "reactor/task.h"

namespace moult::host {

// What one response may weigh. Only reports grow with the function.
inline constexpr uint64_t kMaxSmallResponse = 4 << 20;

class Connection {
 public:
  explicit Connection(UniqueFd fd) : fd_(std::move(fd)) {}

  // Sends and waits for the answer, which is a `Reply`; an Error response is the status that it carries, and
  // leaves the connection good. After any other error it is broken. The strand's deadline goes to the agent.
  template <typename Reply, typename Body>
  Task<absl::StatusOr<Reply>> Call(Strand* strand, Body body, uint64_t max = kMaxSmallResponse) {
    rpc::RequestT request = rpc::MakeRequest(std::move(body), strand->RemainingMs());
    const rpc::RequestBody verb = request.body.type;
    absl::Status sent = co_await Send(strand, std::move(request));
    if (!sent.ok()) co_return sent;
    auto response = co_await Receive(strand, verb, max);
    if (!response.ok()) co_return response.status();
    co_return Expect<Reply>(std::move(**response), verb);
  }

  // The halves of it, for data in between; the data belongs to the last request.
  Task<absl::Status> Send(Strand* strand, rpc::RequestT request);
  Task<absl::StatusOr<std::unique_ptr<rpc::ResponseT>>> Receive(Strand* strand, rpc::RequestBody verb,
                                                                uint64_t max);
  template <typename Reply>
  absl::StatusOr<Reply> Expect(rpc::ResponseT response, rpc::RequestBody verb) {
    using Table = typename Reply::TableType;
    constexpr auto kWanted = rpc::ResponseBodyTraits<Table>::enum_value;
    if (response.body.type == kWanted) return std::move(*static_cast<Reply*>(response.body.value));
    broken_ = true;
    return WrongKind(verb, response.body.type, kWanted);
  }
  Task<absl::Status> SendData(Strand* strand, absl::Span<const std::byte> data);
  // Fills all of `to`.
  Task<absl::Status> ReceiveData(Strand* strand, absl::Span<std::byte> to);

  bool broken() const { return broken_; }
  // Still open and silent, as an idle connection must be.
  bool IsQuiet() const;
  // The agent's answer will not be read: what follows on the stream is unknown.
  void Break() { broken_ = true; }
  // For one that becomes a plain stream.
  UniqueFd TakeFd() { return std::move(fd_); }

 private:
  static absl::Status WrongKind(rpc::RequestBody verb, rpc::ResponseBody got, rpc::ResponseBody wanted);
  Task<absl::Status> WriteAll(Strand* strand, std::string_view header, std::string_view payload);
  Task<absl::Status> ReadAll(Strand* strand, char* to, size_t size);
  Task<absl::StatusOr<std::unique_ptr<rpc::ResponseT>>> ReceiveFrame(Strand* strand, uint64_t max);

  UniqueFd fd_;
  uint64_t next_id_ = 1;
  uint64_t id_ = 0;         // of the last request
  uint64_t data_left_ = 0;  // of a data frame that has begun
  bool broken_ = false;
};

}  // namespace moult::host

#endif  // MOULT_HOST_SESSION_CONNECTION_H_
