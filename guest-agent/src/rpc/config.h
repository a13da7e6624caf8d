// SPDX-License-Identifier: Apache-2.0
//
// The agent's configuration: a JSON object; docs in guest-agent/README.md.
#ifndef MOULT_RPC_CONFIG_H_
#define MOULT_RPC_CONFIG_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "moult/base/status.h"
#include "moult/protocol/frame.h"

namespace moult::agent {

struct Config {
  std::string unix_path;                     // empty: no unix socket
  uint32_t vsock_port = rpc::kDefaultPort;   // 0: no vsock
  std::vector<uint32_t> allowed_cids = {2};  // 2: the host
  std::vector<std::string> verbs;            // empty: all
  std::string state_dir = "/run/moult";
  std::string cgroup_root = "/sys/fs/cgroup/moult";
  bool require_cgroup = true;  // false: without cgroup v2, go without limits and freezer
  uint32_t warm_shells = 2;
  uint32_t keep_templates = 8;  // that were attached, to attach them again in less time
  uint32_t max_connections = 64;
  uint32_t max_functions = 64;
  uint32_t max_streams = 64;      // tunnels and logs
  uint32_t keep_ended = 64;       // ended functions that are remembered; the oldest go first
  uint64_t log_bytes = 1u << 20;  // of a function's output that are kept, about
  uint32_t hold_ms = 600'000;     // how long a captured or detaching function waits for its host
  // How long a host may take to say Hello, to send the rest of what it has begun, to take an answer.
  uint32_t message_ms = 60'000;

  bool Allows(std::string_view verb) const;
};

// kInvalidArgument names the key.
absl::StatusOr<Config> ParseConfig(std::string_view text);
// A file that is not there is an empty one, unless it `must_exist`.
absl::StatusOr<Config> ReadConfig(const std::string& path, bool must_exist);

}  // namespace moult::agent

#endif  // MOULT_RPC_CONFIG_H_
