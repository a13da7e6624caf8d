// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_TOOLS_MOULTCTL_OUTPUT_H_
#define MOULT_TOOLS_MOULTCTL_OUTPUT_H_

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "control/message.h"

namespace moult::ctl {

using control::Json;

inline constexpr int kExitUsage = 2;
inline constexpr char kExitCodes[] =
    "Exit codes: 0 ok, 1 internal error, 2 usage, 3 refused (unsupported, does not fit, taken, changed),\n"
    "4 not found, 5 no permission, 6 template damaged, 7 out of resources, 8 try again.";

// The stable exit code of a status; the same table as moult-image's.
int ExitCode(const absl::Status& status);
// Prints the error on stderr, as a line or as JSON; returns its exit code.
int Fail(const absl::Status& status, bool json);
// The result on stdout: JSON, or `text` (which has its newline).
int Print(const Json& result, const std::string& text, bool json);

std::string Dump(const Json& json);
// A terminal obeys control characters, and much of what we print was said by a guest: blanks in their place.
std::string Printable(std::string text);
// Bytes of others as a member `key`, or, where JSON could not hold them, as `key`_base64.
void AddBytes(Json* json, const std::string& key, const std::string& bytes);
// How many bytes at the end of `text` begin a UTF-8 character whose rest is not there: 0 to 3.
size_t UnfinishedUtf8(std::string_view text);
// "12.3 MiB", "4.56 ms".
std::string Bytes(uint64_t bytes);
std::string Millis(uint64_t us);
// Columns as wide as their widest cell. `right`: the columns whose cells stand at the right.
std::string Table(const std::vector<std::vector<std::string>>& rows, const std::set<size_t>& right = {});

// Members of what came back. Of another type, or not there: empty. What a guest said is made printable.
std::string Text(const Json& json, const char* key);
uint64_t Number(const Json& json, const char* key);
const Json& Member(const Json& json, const char* key);

template <typename T>
Json OrNull(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

// "detach 1.20 ms, attach 3.10 ms": the result's phases.
std::string Phases(const Json& result);

}  // namespace moult::ctl

#endif  // MOULT_TOOLS_MOULTCTL_OUTPUT_H_
