// SPDX-License-Identifier: Apache-2.0
#include "message.h"

#include "absl/strings/str_cat.h"
#include "moult/moult.h"

namespace moult::control {
namespace {

constexpr size_t kMaxIdText = 64;
constexpr size_t kMaxMethod = 64;

// The JSON library parses without recursion but prints and compares with it, so depth is bounded before.
bool TooDeep(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
      continue;
    }
    if (c == '"') in_string = true;
    if ((c == '{' || c == '[') && ++depth > kMaxDepth) return true;
    if (c == '}' || c == ']') --depth;
  }
  return false;
}

std::string Line(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

bool IsId(const Json& id) {
  if (id.is_string()) return id.get_ref<const std::string&>().size() <= kMaxIdText;
  return id.is_number_integer();
}

}  // namespace

absl::StatusOr<Json> ParseJson(std::string_view text) {
  if (TooDeep(text))
    return absl::DataLossError(absl::StrCat("JSON is nested more than ", kMaxDepth, " deep"));
  Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return absl::DataLossError("is no JSON");
  return json;
}

absl::StatusOr<Request> ParseRequest(std::string_view line) {
  if (line.size() >= kMaxLine) {
    return absl::InvalidArgumentError(absl::StrCat("request is longer than ", kMaxLine, " bytes"));
  }
  absl::StatusOr<Json> parsed = ParseJson(line);
  if (!parsed.ok()) return absl::InvalidArgumentError(absl::StrCat("request: ", parsed.status().message()));
  if (!parsed->is_object()) return absl::InvalidArgumentError("request is no JSON object");
  Request request{.id = nullptr, .method = "", .params = Json::object()};
  for (auto& [key, value] : parsed->items()) {
    if (key == "id" && IsId(value)) {
      request.id = value;
    } else if (key == "method" && value.is_string() &&
               value.get_ref<const std::string&>().size() <= kMaxMethod) {
      request.method = value.get<std::string>();
    } else if (key == "params" && value.is_object()) {
      request.params = std::move(value);
    } else {
      return absl::InvalidArgumentError(
          "request: members are id (integer, or string of at most 64 bytes), method "
          "(string) and params (object), and no others");
    }
  }
  if (request.id.is_null() || request.method.empty())
    return absl::InvalidArgumentError("request: id or method is missing");
  return request;
}

std::string ResultLine(const Json& id, const Json& result) {
  return Line(Json{{"id", id}, {"result", result}});
}

std::string ErrorLine(const Json& id, const absl::Status& error, const Json& detail) {
  Json line{{"id", id}, {"error", ErrorJson(error)}};
  if (!detail.is_null()) line["detail"] = detail;
  return Line(line);
}

std::string ProgressLine(const Json& id, std::string_view method, int64_t elapsed_ms) {
  return Line(Json{{"id", id}, {"progress", {{"method", method}, {"elapsed_ms", elapsed_ms}}}});
}

Json ErrorJson(const absl::Status& error) {
  const int code = static_cast<int>(error.code());
  return Json{{"code", code},
              {"name", moult_code_name(static_cast<moult_code>(code))},
              {"message", std::string(error.message())}};
}

absl::Status ErrorFromJson(const Json& error) {
  if (!error.is_object() || !error.contains("code") || !error["code"].is_number_integer() ||
      !error.contains("message") || !error["message"].is_string()) {
    return absl::DataLossError("an error without code and message came back");
  }
  const int64_t code = error["code"].get<int64_t>();
  const std::string message = error["message"].get<std::string>();
  if (code <= 0 || code > MOULT_DATA_LOSS) return absl::UnknownError(message);
  return absl::Status(static_cast<absl::StatusCode>(code), message);
}

}  // namespace moult::control
