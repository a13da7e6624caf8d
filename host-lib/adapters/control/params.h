// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_ADAPTERS_CONTROL_PARAMS_H_
#define MOULT_ADAPTERS_CONTROL_PARAMS_H_

#include <cstdint>
#include <set>
#include <string>

#include "message.h"

namespace moult::control {

// Takes a request's parameters out one by one. The first that is missing or of the wrong type is remembered;
// status() tells of it, or of one that nobody took.
class Params {
 public:
  explicit Params(const Json& params) : params_(params) {}

  std::string Text(const char* name);  // must be there and not empty
  std::string TextOr(const char* name, const char* otherwise);
  uint64_t Number(const char* name);   // must be there
  uint64_t NumberOr(const char* name, uint64_t otherwise, uint64_t most = UINT64_MAX);
  bool Flag(const char* name);    // false when it is not there
  Json Object(const char* name);  // must be there
  // The index of the text among `names`, 0 when it is not there.
  uint32_t Choice(const char* name, std::initializer_list<const char*> names);

  absl::Status status() const;

 private:
  const Json* Take(const char* name, bool required);
  void Wrong(const char* name, const char* what);

  const Json& params_;
  std::set<std::string> taken_;
  absl::Status wrong_;
};

}  // namespace moult::control

#endif  // MOULT_ADAPTERS_CONTROL_PARAMS_H_
