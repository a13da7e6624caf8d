// SPDX-License-Identifier: Apache-2.0
#include "output.h"

#include <cstdio>

namespace moult::tool {

int ExitCode(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 0;
    case absl::StatusCode::kInvalidArgument:
      return kExitUsage;
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kUnimplemented:
      return 3;
    case absl::StatusCode::kNotFound:
      return 4;
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
      return 5;
    case absl::StatusCode::kDataLoss:
      return 6;
    case absl::StatusCode::kResourceExhausted:
      return 7;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kCancelled:
      return 8;
    default:
      return 1;
  }
}

std::string ErrorText(const absl::Status& status, bool json) {
  if (!json) return absl::StrCat("moult-image: ", status.message(), "\n");
  const nlohmann::ordered_json error{{"error",
                                      {{"code", absl::StatusCodeToString(status.code())},
                                       {"exit", ExitCode(status)},
                                       {"message", std::string(status.message())}}}};
  return Dump(error) + "\n";
}

int Fail(const absl::Status& status, bool json) {
  std::fputs(ErrorText(status, json).c_str(), stderr);
  return ExitCode(status);
}

absl::Status FlushStdout() {
  constexpr absl::string_view kWhat = "write the result to stdout";
  if (std::fflush(stdout) != 0) return ErrnoStatus(kWhat);
  // What failed before is flushed no more, and its reason is gone.
  if (std::ferror(stdout) != 0) return absl::ResourceExhaustedError(absl::StrCat(kWhat, ": not all of it was taken; free disk space"));
  return absl::OkStatus();
}

nlohmann::ordered_json PhasesJson(const engine::Phases& phases) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (const auto& [name, micros] : phases.done()) {
    // A phase that comes once per process adds up.
    json[name] = json.value(name, uint64_t{0}) + micros;
  }
  return json;
}

std::string Dump(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace moult::tool
