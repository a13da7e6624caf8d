// SPDX-License-Identifier: Apache-2.0
//
// The two ways to have a method of control.md done: by the VMM's control socket, or by libmoult in this
// process, straight at the agent, for what needs no guest memory.
#ifndef MOULT_TOOLS_MOULTCTL_BACKEND_H_
#define MOULT_TOOLS_MOULTCTL_BACKEND_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "control/message.h"
#include "moult/base/unique_fd.h"

namespace moult::ctl {

using control::Json;

class Backend {
 public:
  virtual ~Backend() = default;
  // Blocks until the call has ended. Shows progress on a terminal meanwhile.
  virtual absl::StatusOr<Json> Call(const std::string& method, const Json& params) = 0;
  // Of `invoke` and `logs`: the stream.
  virtual absl::StatusOr<UniqueFd> Stream(const std::string& method, const Json& params) = 0;
};

struct Where {
  std::string control;  // socket
  std::string agent;    // vsock:CID[:PORT], uds:PATH[:PORT], unix:PATH
  std::string store;    // with agent
  std::string tenant;   // with agent
};

// kInvalidArgument: not exactly one of control and agent, or no such form of an agent's address.
absl::StatusOr<std::unique_ptr<Backend>> Open(const Where& where);
std::unique_ptr<Backend> ControlBackend(UniqueFd connection, std::string path);
absl::StatusOr<std::unique_ptr<Backend>> AgentBackend(const Where& where);

}  // namespace moult::ctl

#endif  // MOULT_TOOLS_MOULTCTL_BACKEND_H_
