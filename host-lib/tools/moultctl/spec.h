// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_TOOLS_MOULTCTL_SPEC_H_
#define MOULT_TOOLS_MOULTCTL_SPEC_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "control/message.h"

namespace moult::ctl {

using control::Json;

// What `moultctl run` was told by flags.
struct RunFlags {
  std::string name;
  std::vector<std::string> env;
  std::string cwd;
  uint32_t uid = 0;
  uint32_t gid = 0;
  std::string endpoint;  // unix:/path, tcp:PORT
  std::string ready;     // started, connect, http:/path, line:TEXT
  std::string runtime_up;
  uint32_t ready_timeout_ms = 0;
  std::string memory;  // bytes, or with K, M, G
  std::string cpu;     // CPUs: "0.5"
  uint32_t pids = 0;
  std::string before_capture;  // http:/path, or a command line for /bin/sh
  std::string after_attach;
  std::vector<std::string> words;  // the command; or one word without --name: a file with the specification
};

// The specification as moult_vm_run() takes it. kInvalidArgument names the flag.
absl::StatusOr<Json> SpecOf(const RunFlags& flags);

}  // namespace moult::ctl

#endif  // MOULT_TOOLS_MOULTCTL_SPEC_H_
