// SPDX-License-Identifier: Apache-2.0
#include "params.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace moult::control {

const Json* Params::Take(const char* name, bool required) {
  taken_.insert(name);
  const auto found = params_.find(name);
  if (found != params_.end()) return &*found;
  if (required) Wrong(name, "is missing");
  return nullptr;
}

void Params::Wrong(const char* name, const char* what) {
  if (wrong_.ok()) wrong_ = absl::InvalidArgumentError(absl::StrCat("parameter ", name, " ", what));
}

std::string Params::Text(const char* name) {
  const Json* value = Take(name, true);
  if (value == nullptr) return "";
  // A NUL byte would end the text early where it becomes a C string.
  if (!value->is_string() || value->get_ref<const std::string&>().empty() ||
      value->get_ref<const std::string&>().find('\0') != std::string::npos) {
    Wrong(name, "must be a text that is not empty and has no NUL");
    return "";
  }
  return value->get<std::string>();
}

std::string Params::TextOr(const char* name, const char* otherwise) {
  return Take(name, false) == nullptr ? otherwise : Text(name);
}

uint64_t Params::Number(const char* name) {
  const Json* value = Take(name, true);
  if (value == nullptr) return 0;
  if (!value->is_number_unsigned()) {
    Wrong(name, "must be a whole number, 0 or more");
    return 0;
  }
  return value->get<uint64_t>();
}

uint64_t Params::NumberOr(const char* name, uint64_t otherwise, uint64_t most) {
  if (Take(name, false) == nullptr) return otherwise;
  const uint64_t value = Number(name);
  if (value > most) Wrong(name, "is too large");
  return value;
}

bool Params::Flag(const char* name) {
  const Json* value = Take(name, false);
  if (value == nullptr) return false;
  if (!value->is_boolean()) {
    Wrong(name, "must be true or false");
    return false;
  }
  return value->get<bool>();
}

Json Params::Object(const char* name) {
  const Json* value = Take(name, true);
  if (value == nullptr) return Json::object();
  if (!value->is_object()) {
    Wrong(name, "must be an object");
    return Json::object();
  }
  return *value;
}

uint32_t Params::Choice(const char* name, std::initializer_list<const char*> names) {
  const Json* value = Take(name, false);
  if (value == nullptr) return 0;
  uint32_t index = 0;
  for (const char* candidate : names) {
    if (value->is_string() && value->get_ref<const std::string&>() == candidate) return index;
    ++index;
  }
  Wrong(name, absl::StrCat("must be one of: ", absl::StrJoin(names, ", ")).c_str());
  return 0;
}

absl::Status Params::status() const {
  if (!wrong_.ok()) return wrong_;
  for (const auto& [name, value] : params_.items()) {
    if (!taken_.contains(name))
      return absl::InvalidArgumentError(absl::StrCat("parameter ", name.substr(0, 64), " is unknown"));
  }
  return absl::OkStatus();
}

}  // namespace moult::control
