// SPDX-License-Identifier: Apache-2.0
//
// Programs started inside a sandbox.
#ifndef MOULT_FUNCTION_EXEC_H_
#define MOULT_FUNCTION_EXEC_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "moult/base/status.h"
#include "moult/base/unique_fd.h"

namespace moult::agent {

struct Program {
  std::vector<std::string> argv;
  std::vector<std::string> env;
  std::string cwd;  // "/" when empty
  uid_t uid = 0;
  gid_t gid = 0;
  int sandbox_init = -1;    // pidfd: whose namespaces
  int time_namespace = -1;  // -1: that of sandbox_init's children
  int cgroup = -1;          // folder; -1: the caller's
};

struct Started {
  UniqueFd pidfd;
  pid_t pid = 0;        // as the caller sees it
  pid_t inner_pid = 0;  // as it sees itself
};

// The program runs with /dev/null as input and the function's log as output, in a session of its own.
// kNotFound, kPermissionDenied...: exec failed, the message names the program. Single-threaded callers only.
//   orphan: its parent is the sandbox's init, which reaps it. Otherwise it is the caller's child.
absl::StatusOr<Started> StartProgram(const Program& program, bool orphan);

}  // namespace moult::agent

#endif  // MOULT_FUNCTION_EXEC_H_
