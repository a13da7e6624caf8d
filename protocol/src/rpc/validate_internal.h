// SPDX-License-Identifier: Apache-2.0
//
// The rules of spec.md, "Messages", that a FlatBuffers verifier cannot say. Each returns OK or kDataLoss with
// the field's path: "request: Run.spec.argv: empty".
#ifndef MOULT_RPC_VALIDATE_INTERNAL_H_
#define MOULT_RPC_VALIDATE_INTERNAL_H_

#include <memory>
#include <string>
#include <vector>

#include "../template/validate_internal.h"
#include "absl/status/status.h"
#include "moult/protocol/rpc_generated.h"

namespace moult::rpc::validate {

using image::validate::CheckCount;
using image::validate::CheckText;
using image::validate::InRange;
using image::validate::PageAligned;
using image::validate::Path;

inline constexpr size_t kMaxArguments = 65536;        // of argv or env
inline constexpr size_t kMaxArgumentBytes = 2 << 20;  // of argv and env together, as execve(2)
inline constexpr size_t kMaxShortText = 256;
inline constexpr size_t kMaxLongText = 65536;
inline constexpr uint32_t kMaxTimeoutMs = 24 * 3600 * 1000;
inline constexpr size_t kMaxPhases = 1024;
inline constexpr size_t kMaxFunctions = 65536;
inline constexpr size_t kMaxWindows = 64;
inline constexpr size_t kMaxFeatures = 256;
inline constexpr size_t kMaxChecks = 1024;
inline constexpr size_t kMaxGpaRuns = 4 << 20;
inline constexpr size_t kMaxPageRuns = 64 << 20;  // pages of 256 GiB
inline constexpr size_t kMaxRamRanges = 65536;
inline constexpr size_t kMaxPageProcesses = 1 << 18;
inline constexpr size_t kMaxPageFiles = 1 << 18;

absl::Status CheckSpec(const Path& at, const FunctionSpecT& spec);
absl::Status CheckRequest(const RequestT& request);
absl::Status CheckResponse(const ResponseT& response);

}  // namespace moult::rpc::validate

#endif  // MOULT_RPC_VALIDATE_INTERNAL_H_
