// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_ADAPTERS_CONTROL_FUNCTION_NAMES_H_
#define MOULT_ADAPTERS_CONTROL_FUNCTION_NAMES_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "message.h"

namespace moult::control {

// What functions are called, as far as answers to clients told it: nobody is asked for it.
class FunctionNames {
 public:
  // Of the result of a call that succeeded. After a list of all functions, no others are known but those that are younger than all
  // of it: they may have come while it was on its way.
  void Learn(std::string_view method, const Json& result);
  // The guest has booted again.
  void Clear() { names_.clear(); }
  const std::map<uint64_t, std::string>& all() const { return names_; }

 private:
  void Add(const Json& function);

  std::map<uint64_t, std::string> names_;
};

}  // namespace moult::control

#endif  // MOULT_ADAPTERS_CONTROL_FUNCTION_NAMES_H_
