// SPDX-License-Identifier: Apache-2.0
#include "moult/protocol/message.h"

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "unpack.h"
#include "validate_internal.h"

namespace moult::rpc {
namespace {

constexpr uint32_t kMaxTables = 1u << 20;

template <typename Root, typename Object>
std::string Pack(const Object& object) {
  flatbuffers::FlatBufferBuilder builder(4096);
  builder.Finish(Root::Pack(builder, &object));
  return {reinterpret_cast<const char*>(builder.GetBufferPointer()), builder.GetSize()};
}

}  // namespace

absl::StatusOr<std::unique_ptr<RequestT>> ParseRequest(std::string_view payload) {
  MOULT_ASSIGN_OR_RETURN(auto request, UnpackBuffer<Request>(payload, "request", kMaxTables));
  if (request->body.type == RequestBody::NONE || request->body.type > RequestBody::MAX) {
    return absl::UnimplementedError(
        absl::StrCat("request: unknown verb ", static_cast<int>(request->body.type)));
  }
  MOULT_RETURN_IF_ERROR(validate::CheckRequest(*request));
  return request;
}

absl::StatusOr<std::unique_ptr<ResponseT>> ParseResponse(std::string_view payload) {
  MOULT_ASSIGN_OR_RETURN(auto response, UnpackBuffer<Response>(payload, "response", kMaxTables));
  if (response->body.type == ResponseBody::NONE || response->body.type > ResponseBody::MAX) {
    return absl::DataLossError(
        absl::StrCat("response: unknown kind ", static_cast<int>(response->body.type)));
  }
  MOULT_RETURN_IF_ERROR(validate::CheckResponse(*response));
  return response;
}

std::string Serialize(const RequestT& request) { return Pack<Request>(request); }
std::string Serialize(const ResponseT& response) { return Pack<Response>(response); }

ResponseT ErrorResponse(const absl::Status& status) {
  ErrorT error;
  error.code = static_cast<uint32_t>(status.code());
  error.message = std::string(status.message());
  return MakeResponse(std::move(error));
}

absl::Status StatusOf(const ErrorT& error) {
  // A peer cannot say "ok" by an error.
  const bool known =
      error.code > 0 && error.code <= static_cast<uint32_t>(absl::StatusCode::kUnauthenticated);
  return absl::Status(known ? static_cast<absl::StatusCode>(error.code) : absl::StatusCode::kUnknown,
                      error.message);
}

const char* VerbName(RequestBody body) {
  return body > RequestBody::NONE && body <= RequestBody::MAX ? EnumNameRequestBody(body) : "?";
}

}  // namespace moult::rpc
