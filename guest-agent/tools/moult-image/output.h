// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_TOOLS_MOULT_IMAGE_OUTPUT_H_
#define MOULT_TOOLS_MOULT_IMAGE_OUTPUT_H_

#include <nlohmann/json.hpp>

#include "image/phases.h"
#include "moult/base/status.h"

namespace moult::tool {

inline constexpr int kExitUsage = 2;

// The stable exit code of a status (README, "Exit codes").
int ExitCode(const absl::Status& status);

// The error as a line for people or as JSON, with its newline.
std::string ErrorText(const absl::Status& status, bool json);
// Prints it on stderr; returns its exit code.
int Fail(const absl::Status& status, bool json);

// Of all that was printed on stdout, whenever it was written.
absl::Status FlushStdout();

nlohmann::ordered_json PhasesJson(const engine::Phases& phases);
// JSON text; bytes that are no UTF-8 (names of processes and files) are replaced, not fatal.
std::string Dump(const nlohmann::ordered_json& json);

}  // namespace moult::tool

#endif  // MOULT_TOOLS_MOULT_IMAGE_OUTPUT_H_
