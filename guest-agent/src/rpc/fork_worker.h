// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_RPC_FORK_WORKER_H_
#define MOULT_RPC_FORK_WORKER_H_

#include <sys/types.h>

#include <vector>

#include "moult/base/status.h"
#include "moult/base/unique_fd.h"

namespace moult::agent {

// Forks, with a socket of packets between the two: `ours` is the agent's end, `theirs` the worker's. Its pid; 0 in the worker.
absl::StatusOr<pid_t> ForkWorker(UniqueFd* ours, UniqueFd* theirs);

// In the worker, first of all: closes all descriptors but `keep` and the standard ones. It ends by its own decision only,
// since a signal in the midst of a capture could harm the function.
void BecomeWorker(std::vector<int> keep);

}  // namespace moult::agent

#endif  // MOULT_RPC_FORK_WORKER_H_
