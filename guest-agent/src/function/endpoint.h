// SPDX-License-Identifier: Apache-2.0
//
// Reaching a function: its endpoint, and waiting without hanging.
#ifndef MOULT_FUNCTION_ENDPOINT_H_
#define MOULT_FUNCTION_ENDPOINT_H_

#include <sys/types.h>

#include <chrono>
#include <string>

#include "moult/base/status.h"
#include "moult/base/unique_fd.h"
#include "moult/protocol/message.h"

namespace moult::agent {

using Clock = std::chrono::steady_clock;

// Whatever makes it pointless to wait any longer for a function.
struct Watch {
  int connection = -1;  // the host's; its end: kCancelled
  int agent = -1;       // socket to the agent's main process; its end: kCancelled
  int init_pidfd = -1;  // of the function's sandbox; its end: kAborted
  Clock::time_point deadline = Clock::time_point::max();  // kDeadlineExceeded

  Watch Until(Clock::time_point sooner) const;
};

// Sleeps until `fd` (-1: none) is ready for `events`, or `most` has gone by: OK; or something that is
// watched.
absl::Status Wait(const Watch& watch, int fd, short events,
                  std::chrono::milliseconds most = std::chrono::hours(1));

// A connection to the endpoint of the function whose sandbox's init is `init_pid`. kUnavailable: it does not
// accept now. Waits for a TCP handshake only.
absl::StatusOr<UniqueFd> ConnectEndpoint(pid_t init_pid, const rpc::EndpointT& endpoint, const Watch& watch);

// GET `path`: OK for 2xx. kUnavailable: no connection or another answer.
absl::Status HttpGet(pid_t init_pid, const rpc::EndpointT& endpoint, const std::string& path,
                     const Watch& watch);

std::string EndpointName(const rpc::EndpointT& endpoint);

}  // namespace moult::agent

#endif  // MOULT_FUNCTION_ENDPOINT_H_
