// SPDX-License-Identifier: Apache-2.0
#include "moult/protocol/message.h"

#include "absl/strings/str_cat.h"

namespace moult::rpc {
namespace {

constexpr uint32_t kMaxDepth = 16;
constexpr uint32_t kMaxTables = 1u << 20;

template <typename Root>
absl::Status Verify(std::string_view payload, const char* what) {
  flatbuffers::Verifier verifier(reinterpret_cast<const uint8_t*>(payload.data()), payload.size(), kMaxDepth,
                                 kMaxTables);
  if (verifier.VerifyBuffer<Root>(nullptr)) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(what, ": ", payload.size(), " bytes that are no message of this protocol"));
}

template <typename Root, typename Object>
std::string Pack(const Object& object) {
  flatbuffers::FlatBufferBuilder builder(4096);
  builder.Finish(Root::Pack(builder, &object));
  return {reinterpret_cast<const char*>(builder.GetBufferPointer()), builder.GetSize()};
}

}  // namespace

absl::StatusOr<std::unique_ptr<RequestT>> ParseRequest(std::string_view payload) {
  if (auto status = Verify<Request>(payload, "request"); !status.ok()) return status;
  const auto* request = flatbuffers::GetRoot<Request>(payload.data());
  if (request->body_type() == RequestBody::NONE || request->body_type() > RequestBody::MAX) {
    return absl::UnimplementedError(
        absl::StrCat("request: unknown verb ", static_cast<int>(request->body_type())));
  }
  return std::unique_ptr<RequestT>(request->UnPack());
}

absl::StatusOr<std::unique_ptr<ResponseT>> ParseResponse(std::string_view payload) {
  if (auto status = Verify<Response>(payload, "response"); !status.ok()) return status;
  const auto* response = flatbuffers::GetRoot<Response>(payload.data());
  if (response->body_type() == ResponseBody::NONE || response->body_type() > ResponseBody::MAX) {
    return absl::DataLossError(
        absl::StrCat("response: unknown kind ", static_cast<int>(response->body_type())));
  }
  return std::unique_ptr<ResponseT>(response->UnPack());
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
