// SPDX-License-Identifier: Apache-2.0
#include "rpc/config.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "moult/protocol/message.h"
#include "proc/read.h"

namespace moult::agent {
namespace {

using nlohmann::json;

absl::Status Wrong(absl::string_view key, const char* wanted) {
  return absl::InvalidArgumentError(absl::StrCat("configuration: \"", key, "\" must be ", wanted));
}

template <typename T>
absl::Status Number(const std::string& key, const json& value, uint64_t least, T* to) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > std::numeric_limits<T>::max() ||
      value.get<uint64_t>() < least)
    return Wrong(key, "a number that is not too big or small");
  *to = value.get<T>();
  return absl::OkStatus();
}

absl::Status Path(const std::string& key, const json& value, bool may_be_empty, std::string* to) {
  if (!value.is_string()) return Wrong(key, "a path");
  *to = value.get<std::string>();
  if (to->empty() ? !may_be_empty : to->front() != '/') return Wrong(key, "an absolute path");
  return absl::OkStatus();
}

bool IsVerb(std::string_view name) {
  for (const rpc::RequestBody body : rpc::EnumValuesRequestBody()) {
    if (body != rpc::RequestBody::NONE && name == rpc::VerbName(body)) return true;
  }
  return false;
}

absl::Status Verbs(const std::string& key, const json& value, std::vector<std::string>* to) {
  if (!value.is_array()) return Wrong(key, "a list of verbs");
  to->clear();
  for (const json& verb : value) {
    if (!verb.is_string() || !IsVerb(verb.get<std::string>()))
      return Wrong(key, "a list of verbs (Hello, List, Run, ...)");
    to->push_back(verb.get<std::string>());
  }
  return absl::OkStatus();
}

absl::Status Take(Config& config, const std::string& key, const json& value) {
  if (key == "unix_path") return Path(key, value, true, &config.unix_path);
  if (key == "state_dir") return Path(key, value, false, &config.state_dir);
  if (key == "cgroup_root") return Path(key, value, false, &config.cgroup_root);
  if (key == "vsock_port") return Number(key, value, 0, &config.vsock_port);
  if (key == "warm_shells") return Number(key, value, 0, &config.warm_shells);
  if (key == "keep_templates") return Number(key, value, 0, &config.keep_templates);
  if (key == "max_connections") return Number(key, value, 1, &config.max_connections);
  if (key == "max_functions") return Number(key, value, 1, &config.max_functions);
  if (key == "max_streams") return Number(key, value, 0, &config.max_streams);
  if (key == "keep_ended") return Number(key, value, 0, &config.keep_ended);
  if (key == "log_bytes") return Number(key, value, 4096, &config.log_bytes);
  if (key == "hold_ms") return Number(key, value, 1, &config.hold_ms);
  if (key == "message_ms") return Number(key, value, 1, &config.message_ms);
  if (key == "verbs") return Verbs(key, value, &config.verbs);
  if (key == "require_cgroup") {
    if (!value.is_boolean()) return Wrong(key, "true or false");
    config.require_cgroup = value.get<bool>();
    return absl::OkStatus();
  }
  if (key == "allowed_cids") {
    if (!value.is_array()) return Wrong(key, "a list of numbers");
    config.allowed_cids.clear();
    for (const json& cid : value) {
      MOULT_RETURN_IF_ERROR(Number(key, cid, 0, &config.allowed_cids.emplace_back()));
    }
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("configuration: unknown key \"", key, "\""));
}

}  // namespace

bool Config::Allows(std::string_view verb) const {
  // What ends a capture or a detach belongs to it.
  if (verb == "CaptureEnd") verb = "Capture";
  if (verb == "DetachPages" || verb == "DetachEnd") verb = "Detach";
  // And the pages that an attach shows must be got back.
  if (verb == "Release") verb = "Attach";
  return verbs.empty() || verb == "Hello" || std::find(verbs.begin(), verbs.end(), verb) != verbs.end();
}

absl::StatusOr<Config> ParseConfig(std::string_view text) {
  const json root = json::parse(text, nullptr, /*allow_exceptions=*/false, /*ignore_comments=*/true);
  if (!root.is_object()) return absl::InvalidArgumentError("configuration: not a JSON object");
  Config config;
  for (const auto& [key, value] : root.items()) MOULT_RETURN_IF_ERROR(Take(config, key, value));
  return config;
}

absl::StatusOr<Config> ReadConfig(const std::string& path, bool must_exist) {
  auto text = proc::ReadFile(path);
  if (absl::IsNotFound(text.status()) && !must_exist) return Config{};
  MOULT_RETURN_IF_ERROR(text.status());
  auto config = ParseConfig(*text);
  if (!config.ok()) return Annotate(config.status(), path);
  return config;
}

}  // namespace moult::agent
