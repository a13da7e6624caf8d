// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "moult/base/status.h"
#include "moult/protocol/function_spec.h"
#include "moult/protocol/limits.h"
#include "unpack.h"
#include "validate_internal.h"

namespace moult::rpc {
namespace validate {
namespace {

constexpr size_t kMaxSocketPath = image::kMaxSunPath - 1;  // with its NUL

absl::Status CheckTimeout(const Path& at, uint32_t timeout_ms) {
  if (timeout_ms <= kMaxTimeoutMs) return absl::OkStatus();
  return at.BadField("timeout_ms", timeout_ms, " is over the limit of ", kMaxTimeoutMs);
}

// What goes into the request line of HTTP as it is.
absl::Status CheckHttpPath(const Path& at, const std::string& path) {
  if (path.empty() || path[0] != '/') return at.BadField("path", "does not begin with /");
  if (path.size() > image::kMaxPath) return at.BadField("path", path.size(), " bytes, over the limit");
  const bool plain = std::all_of(path.begin(), path.end(), [](char c) { return c > ' ' && c < 0x7f; });
  return plain ? absl::OkStatus() : at.BadField("path", "has a byte that no request line may have");
}

absl::Status CheckEndpoint(const Path& at, const EndpointT* endpoint) {
  if (endpoint == nullptr) return absl::OkStatus();
  if (!InRange(endpoint->kind, EndpointKind::MAX)) {
    return at.BadField("kind", static_cast<int>(endpoint->kind), " is unknown");
  }
  MOULT_RETURN_IF_ERROR(CheckText(at, "path", endpoint->path, kMaxSocketPath));
  if (endpoint->kind == EndpointKind::Unix && (endpoint->path.empty() || endpoint->path[0] != '/')) {
    return at.BadField("path", "is not absolute");
  }
  if (endpoint->kind == EndpointKind::Tcp && endpoint->port == 0) return at.BadField("port", "0");
  return absl::OkStatus();
}

absl::Status CheckArguments(const Path& at, const char* field, const std::vector<std::string>& list,
                            size_t* bytes) {
  MOULT_RETURN_IF_ERROR(CheckCount(at, field, list, kMaxArguments));
  for (const std::string& text : list) {
    MOULT_RETURN_IF_ERROR(CheckText(at, field, text, kMaxArgumentBytes));
    *bytes += text.size() + 1;
  }
  if (*bytes > kMaxArgumentBytes) {
    return at.BadField(field, *bytes, " bytes in all, over the limit of ", kMaxArgumentBytes);
  }
  return absl::OkStatus();
}

absl::Status CheckHook(const Path& at, const HookT* hook, bool has_endpoint) {
  if (hook == nullptr) return absl::OkStatus();
  if (!InRange(hook->kind, HookKind::MAX))
    return at.BadField("kind", static_cast<int>(hook->kind), " is unknown");
  size_t bytes = 0;
  MOULT_RETURN_IF_ERROR(CheckArguments(at, "command", hook->command, &bytes));
  if (hook->kind == HookKind::Command && hook->command.empty()) return at.BadField("command", "empty");
  if (hook->kind == HookKind::HttpGet) {
    if (!has_endpoint) return at.BadField("kind", "HttpGet, but the function has no endpoint");
    MOULT_RETURN_IF_ERROR(CheckHttpPath(at, hook->path));
  }
  return CheckTimeout(at, hook->timeout_ms);
}

absl::Status CheckReadiness(const Path& at, const ReadinessT* readiness, bool has_endpoint) {
  if (readiness == nullptr) return absl::OkStatus();
  if (!InRange(readiness->kind, ReadinessKind::MAX)) {
    return at.BadField("kind", static_cast<int>(readiness->kind), " is unknown");
  }
  const bool asks = readiness->kind == ReadinessKind::Connect || readiness->kind == ReadinessKind::HttpGet;
  if (asks && !has_endpoint) {
    return at.BadField("kind", EnumNameReadinessKind(readiness->kind), ", but the function has no endpoint");
  }
  if (readiness->kind == ReadinessKind::HttpGet) MOULT_RETURN_IF_ERROR(CheckHttpPath(at, readiness->path));
  MOULT_RETURN_IF_ERROR(CheckText(at, "line", readiness->line, image::kMaxPath));
  if (readiness->line.find('\n') != std::string::npos) return at.BadField("line", "has a newline");
  if (readiness->kind == ReadinessKind::Line && readiness->line.empty()) return at.BadField("line", "empty");
  return CheckTimeout(at, readiness->timeout_ms);
}

}  // namespace

absl::Status CheckSpec(const Path& at, const FunctionSpecT& spec) {
  if (!IsName(spec.name)) {
    return at.BadField("name", "is not 1 to 64 of [A-Za-z0-9._-], or begins with a dot");
  }
  size_t bytes = 0;
  if (spec.argv.empty()) return at.BadField("argv", "empty");
  if (spec.argv[0].empty()) return at.BadField("argv", "the program's name is empty");
  MOULT_RETURN_IF_ERROR(CheckArguments(at, "argv", spec.argv, &bytes));
  MOULT_RETURN_IF_ERROR(CheckArguments(at, "env", spec.env, &bytes));
  for (size_t i = 0; i < spec.env.size(); ++i) {
    const size_t equals = spec.env[i].find('=');
    if (equals == 0 || equals == std::string::npos) return Path(at, "env", i).Bad("is not NAME=value");
  }
  MOULT_RETURN_IF_ERROR(CheckText(at, "cwd", spec.cwd, image::kMaxPath));
  if (!spec.cwd.empty() && spec.cwd[0] != '/') return at.BadField("cwd", "is not absolute");
  MOULT_RETURN_IF_ERROR(CheckEndpoint(Path(at, "endpoint"), spec.endpoint.get()));
  const bool has_endpoint = spec.endpoint != nullptr && spec.endpoint->kind != EndpointKind::None;
  MOULT_RETURN_IF_ERROR(CheckReadiness(Path(at, "readiness"), spec.readiness.get(), has_endpoint));
  MOULT_RETURN_IF_ERROR(CheckReadiness(Path(at, "runtime_up"), spec.runtime_up.get(), has_endpoint));
  MOULT_RETURN_IF_ERROR(CheckHook(Path(at, "before_capture"), spec.before_capture.get(), has_endpoint));
  return CheckHook(Path(at, "after_attach"), spec.after_attach.get(), has_endpoint);
}

}  // namespace validate

absl::Status ValidateFunctionSpec(const FunctionSpecT& spec) {
  return validate::CheckSpec(validate::Path("spec"), spec);
}

absl::StatusOr<std::unique_ptr<FunctionSpecT>> ParseFunctionSpec(std::string_view bytes) {
  constexpr uint32_t kMaxSpecTables = 16;
  MOULT_ASSIGN_OR_RETURN(auto spec, UnpackBuffer<FunctionSpec>(bytes, "spec", kMaxSpecTables));
  MOULT_RETURN_IF_ERROR(ValidateFunctionSpec(*spec));
  return spec;
}

std::string SerializeFunctionSpec(const FunctionSpecT& spec) {
  flatbuffers::FlatBufferBuilder builder(1024);
  builder.Finish(FunctionSpec::Pack(builder, &spec));
  return {reinterpret_cast<const char*>(builder.GetBufferPointer()), builder.GetSize()};
}

bool IsName(std::string_view name) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  };
  return !name.empty() && name.size() <= 64 && name[0] != '.' &&
         std::all_of(name.begin(), name.end(), allowed);
}

}  // namespace moult::rpc
