// SPDX-License-Identifier: Apache-2.0
//
// One process for all tunnels: a call of a function costs no fork, and what goes through keeps no request waiting.
#ifndef MOULT_RPC_RELAY_H_
#define MOULT_RPC_RELAY_H_

#include <sys/types.h>

#include <cstddef>

#include "moult/base/status.h"
#include "moult/base/unique_fd.h"

namespace moult::agent {

class Relay {
 public:
  // Starts the process, which ends with this one. One that has ended is started anew by the next Take.
  absl::Status Start();
  // The two ends become a tunnel. kUnavailable: the process has ended, or does not keep up.
  absl::Status Take(int host, int function);
  // Tunnels that there are.
  size_t count() const { return count_; }
  // Readable when tunnels have ended, or the process has: call Update() then. -1: not started.
  int fd() const { return socket_.get(); }
  void Update();
  pid_t pid() const { return pid_; }

 private:
  UniqueFd socket_;
  pid_t pid_ = -1;
  size_t count_ = 0;
};

}  // namespace moult::agent

#endif  // MOULT_RPC_RELAY_H_
