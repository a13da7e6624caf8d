// SPDX-License-Identifier: Apache-2.0
#include <initializer_list>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "json/json.h"
#include "moult/base/status.h"

namespace moult::host {
namespace {

// The names of an enum's values, by number.
using Names = absl::Span<const char* const>;
constexpr const char* kEndpoints[] = {"none", "unix", "tcp"};
constexpr const char* kReadiness[] = {"started", "connect", "http_get", "line"};
constexpr const char* kHooks[] = {"none", "command", "http_get"};

// Takes members of one object, and then says which were not taken.
class Members {
 public:
  Members(const Json& json, std::string path) : json_(json), path_(std::move(path)) {}

  void Text(const char* name, std::string* to) {
    if (const Json* json = Find(name, Json::value_t::string)) *to = json->get<std::string>();
  }
  template <typename T>
  void Number(const char* name, T* to) {
    const Json* json = Find(name, Json::value_t::number_unsigned);
    if (json == nullptr) return;
    const auto value = json->get<uint64_t>();
    if (value > std::numeric_limits<T>::max()) return Fail(name, "is too large");
    *to = static_cast<T>(value);
  }
  void List(const char* name, std::vector<std::string>* to) {
    const Json* json = Find(name, Json::value_t::array);
    for (size_t i = 0; json != nullptr && i < json->size(); ++i) {
      if (!(*json)[i].is_string()) return Fail(name, "is not a list of strings");
      to->push_back((*json)[i].get<std::string>());
    }
  }
  template <typename E>
  void Enum(const char* name, Names names, E* to) {
    std::string text;
    Text(name, &text);
    if (json_.contains(name) == false) return;
    for (size_t i = 0; i < names.size(); ++i) {
      if (text == names[i]) {
        *to = static_cast<E>(i);
        return;
      }
    }
    Fail(name, absl::StrCat("\"", text, "\" is unknown"));
  }
  // The object of that name, when there is one, by `read(Members*)`.
  template <typename F>
  void Object(const char* name, F read) {
    const Json* json = Find(name, Json::value_t::object);
    if (json == nullptr) return;
    Members inner(*json, absl::StrCat(path_, path_.empty() ? "" : ".", name));
    read(&inner);
    if (status_.ok()) status_ = inner.Finish();
  }
  absl::Status Finish() {
    for (const auto& [name, value] : json_.items()) {
      if (std::find(known_.begin(), known_.end(), name) == known_.end()) Fail(name.c_str(), "is unknown");
    }
    return status_;
  }

 private:
  const Json* Find(const char* name, Json::value_t type) {
    known_.push_back(name);
    const auto found = json_.find(name);
    if (found == json_.end() || found->is_null()) return nullptr;
    if (found->type() != type) {
      Fail(name, absl::StrCat("is ", found->type_name(), ", not ", Json(type).type_name()));
      return nullptr;
    }
    return &*found;
  }
  void Fail(const char* name, absl::string_view what) {
    if (!status_.ok()) return;
    status_ = absl::InvalidArgumentError(
        absl::StrCat("function: ", path_, path_.empty() ? "" : ".", name, ": ", what));
  }

  const Json& json_;
  const std::string path_;
  std::vector<std::string> known_;
  absl::Status status_;
};

void ReadHook(Members* from, std::unique_ptr<rpc::HookT>* to) {
  *to = std::make_unique<rpc::HookT>();
  from->Enum("kind", kHooks, &(*to)->kind);
  from->List("command", &(*to)->command);
  from->Text("path", &(*to)->path);
  from->Number("timeout_ms", &(*to)->timeout_ms);
}

void ReadReadiness(Members* from, std::unique_ptr<rpc::ReadinessT>* to) {
  *to = std::make_unique<rpc::ReadinessT>();
  from->Enum("kind", kReadiness, &(*to)->kind);
  from->Text("path", &(*to)->path);
  from->Text("line", &(*to)->line);
  from->Number("timeout_ms", &(*to)->timeout_ms);
}

void ReadSpec(Members* from, rpc::FunctionSpecT* to) {
  from->Text("name", &to->name);
  from->List("argv", &to->argv);
  from->List("env", &to->env);
  from->Text("cwd", &to->cwd);
  from->Number("uid", &to->uid);
  from->Number("gid", &to->gid);
  from->Number("memory_limit", &to->memory_limit);
  from->Number("cpu_limit_milli", &to->cpu_limit_milli);
  from->Number("pids_limit", &to->pids_limit);
  from->Object("endpoint", [&](Members* inner) {
    to->endpoint = std::make_unique<rpc::EndpointT>();
    inner->Enum("kind", kEndpoints, &to->endpoint->kind);
    inner->Text("path", &to->endpoint->path);
    inner->Number("port", &to->endpoint->port);
  });
  from->Object("readiness", [&](Members* inner) { ReadReadiness(inner, &to->readiness); });
  from->Object("runtime_up", [&](Members* inner) { ReadReadiness(inner, &to->runtime_up); });
  from->Object("before_capture", [&](Members* inner) { ReadHook(inner, &to->before_capture); });
  from->Object("after_attach", [&](Members* inner) { ReadHook(inner, &to->after_attach); });
}

template <typename E>
const char* NameOf(Names names, E value) {
  const auto i = static_cast<size_t>(value);
  return i < names.size() ? names[i] : "?";
}

Json ReadinessJson(const rpc::ReadinessT& readiness) {
  return {{"kind", NameOf(kReadiness, readiness.kind)},
          {"path", readiness.path},
          {"line", readiness.line},
          {"timeout_ms", readiness.timeout_ms}};
}

Json HookJson(const rpc::HookT& hook) {
  return {{"kind", NameOf(kHooks, hook.kind)},
          {"command", hook.command},
          {"path", hook.path},
          {"timeout_ms", hook.timeout_ms}};
}

}  // namespace

absl::StatusOr<std::unique_ptr<rpc::FunctionSpecT>> SpecFromJson(std::string_view text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("function: is not a JSON object");
  auto spec = std::make_unique<rpc::FunctionSpecT>();
  Members members(json, "");
  ReadSpec(&members, spec.get());
  MOULT_RETURN_IF_ERROR(members.Finish());
  if (const absl::Status status = rpc::ValidateFunctionSpec(*spec); !status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("function: ", status.message()));
  }
  return spec;
}

Json ToJson(const rpc::FunctionSpecT& spec) {
  Json json = {{"name", spec.name},
               {"argv", spec.argv},
               {"env", spec.env},
               {"cwd", spec.cwd},
               {"uid", spec.uid},
               {"gid", spec.gid},
               {"memory_limit", spec.memory_limit},
               {"cpu_limit_milli", spec.cpu_limit_milli},
               {"pids_limit", spec.pids_limit}};
  if (spec.endpoint != nullptr) {
    json["endpoint"] = {{"kind", NameOf(kEndpoints, spec.endpoint->kind)},
                        {"path", spec.endpoint->path},
                        {"port", spec.endpoint->port}};
  }
  if (spec.readiness != nullptr) json["readiness"] = ReadinessJson(*spec.readiness);
  if (spec.runtime_up != nullptr) json["runtime_up"] = ReadinessJson(*spec.runtime_up);
  if (spec.before_capture != nullptr) json["before_capture"] = HookJson(*spec.before_capture);
  if (spec.after_attach != nullptr) json["after_attach"] = HookJson(*spec.after_attach);
  return json;
}

}  // namespace moult::host
