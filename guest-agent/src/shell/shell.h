// SPDX-License-Identifier: Apache-2.0
//
// Shells: sandboxes that wait for a function.
#ifndef MOULT_SHELL_SHELL_H_
#define MOULT_SHELL_SHELL_H_

#include <memory>

#include "function/record.h"
#include "rpc/config.h"

namespace moult::agent {

// Makes function `id` with all but processes of its own: folder, cgroup (null when `use_cgroup` is false),
// sandbox. The sandbox's init is a child of the caller. All or nothing.
absl::StatusOr<std::unique_ptr<Function>> MakeShell(const Config& config, bool use_cgroup, uint64_t id);

}  // namespace moult::agent

#endif  // MOULT_SHELL_SHELL_H_
