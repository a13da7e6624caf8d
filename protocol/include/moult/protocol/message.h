// SPDX-License-Identifier: Apache-2.0
//
// Messages as objects: bytes in, checked objects out, no descriptors.
#ifndef MOULT_PROTOCOL_MESSAGE_H_
#define MOULT_PROTOCOL_MESSAGE_H_

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "moult/protocol/rpc_generated.h"

namespace moult::rpc {

// What either side takes from the other at most, by default. A process image has a few hundred bytes a
// mapping and a few thousand a thread.
inline constexpr uint64_t kMaxRequest = 128ull << 20;
inline constexpr uint64_t kMaxResponse = 128ull << 20;

// Structure (FlatBuffers verifier) and the rules of spec.md. kDataLoss with the field that breaks a rule.
absl::StatusOr<std::unique_ptr<RequestT>> ParseRequest(std::string_view payload);
absl::StatusOr<std::unique_ptr<ResponseT>> ParseResponse(std::string_view payload);

std::string Serialize(const RequestT& request);
std::string Serialize(const ResponseT& response);

// An Error response, and back.
ResponseT ErrorResponse(const absl::Status& status);
absl::Status StatusOf(const ErrorT& error);

// "Run", "Capture", ...: for logs, errors and allow-lists. "?" for none.
const char* VerbName(RequestBody body);

// A request or response around `body`, a RunT, HelloReplyT, ...
template <typename Body>
RequestT MakeRequest(Body body, uint32_t deadline_ms = 0) {
  RequestT request;
  request.body.Set(std::move(body));
  request.deadline_ms = deadline_ms;
  return request;
}
template <typename Body>
ResponseT MakeResponse(Body body) {
  ResponseT response;
  response.body.Set(std::move(body));
  return response;
}

}  // namespace moult::rpc

#endif  // MOULT_PROTOCOL_MESSAGE_H_
