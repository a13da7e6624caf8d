// SPDX-License-Identifier: Apache-2.0
//
// When a function counts as ready, and its hooks.
#ifndef MOULT_FUNCTION_READY_H_
#define MOULT_FUNCTION_READY_H_

#include <string>

#include "function/endpoint.h"
#include "function/record.h"

namespace moult::agent {

// Waits as `readiness` of its spec says; null: not at all. kDeadlineExceeded and kAborted carry the end of the log.
absl::Status AwaitReady(const Function& function, const rpc::ReadinessT* readiness, const Watch& watch);
// Waits until the endpoint accepts; at once when there is none.
absl::Status AwaitEndpoint(const Function& function, const Watch& watch);
// `what` ("before_capture") is for errors. A null or empty hook is OK.
absl::Status RunHook(const Function& function, const rpc::HookT* hook, const char* what, const Watch& watch);

// The last bytes of a function's output, for errors.
std::string LogTail(const Function& function);

}  // namespace moult::agent

#endif  // MOULT_FUNCTION_READY_H_
