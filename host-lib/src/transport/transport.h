// SPDX-License-Identifier: Apache-2.0
//
// Ways to the agent. Whatever the way, what comes out is a connected, non-blocking stream socket.
#ifndef MOULT_HOST_TRANSPORT_TRANSPORT_H_
#define MOULT_HOST_TRANSPORT_TRANSPORT_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "moult/base/unique_fd.h"
#include "reactor/reactor.h"
#include "reactor/task.h"

namespace moult::host {

struct TransportConfig {
  enum class Kind : uint32_t { kNone, kVsock, kConnect, kUnix, kFd, kCallback };
  Kind kind = Kind::kNone;
  uint32_t cid = 0;
  uint32_t port = 0;
  int fd = -1;
  std::string path;
  std::function<int(uint32_t port)> connect;
};

class Transport {
 public:
  // kInvalidArgument: something that its kind needs is missing. Takes no descriptor over yet.
  static absl::Status Check(const TransportConfig& config);
  explicit Transport(TransportConfig config) : config_(std::move(config)), given_(config_.fd) {}

  // Only one connection, ever.
  bool single() const { return config_.kind == TransportConfig::Kind::kFd; }
  // "vsock 3:1075", "/run/vm.sock port 1075".
  std::string Text() const;

  // kUnavailable: nobody there (yet). Within the strand's deadline.
  Task<absl::StatusOr<UniqueFd>> Connect(Strand* strand);

 private:
  absl::StatusOr<UniqueFd> Begin(bool* in_progress);

  const TransportConfig config_;
  UniqueFd given_;  // kFd: until it is used
};

}  // namespace moult::host

#endif  // MOULT_HOST_TRANSPORT_TRANSPORT_H_
