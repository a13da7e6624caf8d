// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_ADAPTERS_CONTROL_LISTENER_H_
#define MOULT_ADAPTERS_CONTROL_LISTENER_H_

#include <string>

#include "absl/status/statusor.h"
#include "moult/base/unique_fd.h"

namespace moult::control {

// A listening unix socket at `path`, mode 0600 from its first moment on. What an ended process has left there
// is replaced; kAlreadyExists when somebody still listens, or when it is no socket.
absl::StatusOr<UniqueFd> Listen(const std::string& path);

// The next client, or none (not valid) when nobody waits. kPermissionDenied: it was neither root nor our user
// and has been sent away.
absl::StatusOr<UniqueFd> Accept(int listener);

// Client's side. kUnavailable when nobody listens there.
absl::StatusOr<UniqueFd> Connect(const std::string& path);

}  // namespace moult::control

#endif  // MOULT_ADAPTERS_CONTROL_LISTENER_H_
