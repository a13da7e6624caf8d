// SPDX-License-Identifier: Apache-2.0
//
// The control socket's messages, one JSON object a line. control.md, beside this, is normative.
#ifndef MOULT_ADAPTERS_CONTROL_MESSAGE_H_
#define MOULT_ADAPTERS_CONTROL_MESSAGE_H_

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace moult::control {

using Json = nlohmann::ordered_json;

inline constexpr size_t kMaxLine = 1u << 20;  // of a request, with its newline
inline constexpr int kMaxDepth = 32;          // objects and arrays within each other

struct Request {
  Json id;  // an integer or a string of at most 64 bytes
  std::string method;
  Json params;  // an object
};

// One line, without its newline. kInvalidArgument says what is wrong with it; such a client is not worth
// keeping, since nobody knows what its next bytes mean.
absl::StatusOr<Request> ParseRequest(std::string_view line);

// JSON of another program of ours, or of libmoult: kDataLoss when it is none, too deep included.
absl::StatusOr<Json> ParseJson(std::string_view text);

// Each ends with a newline. Bytes that are no UTF-8 are replaced.
std::string ResultLine(const Json& id, const Json& result);
// `detail`: what is known of the failed operation, an object; or null.
std::string ErrorLine(const Json& id, const absl::Status& error, const Json& detail = nullptr);
std::string ProgressLine(const Json& id, std::string_view method, int64_t elapsed_ms);

// {"code": 5, "name": "NOT_FOUND", "message": "..."} and back.
Json ErrorJson(const absl::Status& error);
absl::Status ErrorFromJson(const Json& error);

}  // namespace moult::control

#endif  // MOULT_ADAPTERS_CONTROL_MESSAGE_H_
