// SPDX-License-Identifier: Apache-2.0
#include "function_names.h"

#include <algorithm>

#include "server_limits.h"

namespace moult::control {

void FunctionNames::Learn(std::string_view method, const Json& result) {
  const auto list = result.find("functions");
  if (method == "ps" && list != result.end() && list->is_array()) {
    uint64_t youngest = 0;
    for (const Json& function : *list) {
      if (function.is_object() && function.contains("id") && function["id"].is_number_unsigned())
        youngest = std::max(youngest, function["id"].get<uint64_t>());
    }
    names_.erase(names_.begin(), list->empty() ? names_.end() : names_.upper_bound(youngest));
    for (const Json& function : *list) Add(function);
  }
  // Of run, attach, repurpose and so on: the one that there is now.
  if (const auto function = result.find("function"); function != result.end()) Add(*function);
}

void FunctionNames::Add(const Json& function) {
  if (!function.is_object()) return;
  const auto id = function.find("id");
  const auto name = function.find("name");
  if (id == function.end() || !id->is_number_unsigned() || name == function.end() || !name->is_string()) return;
  names_[id->get<uint64_t>()] = name->get<std::string>();
  // Numbers rise: the least is the oldest.
  if (names_.size() > kMaxNames) names_.erase(names_.begin());
}

}  // namespace moult::control
