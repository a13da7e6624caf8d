// SPDX-License-Identifier: Apache-2.0
//
// What the kernel knows of a unix socket, through NETLINK_SOCK_DIAG (CONFIG_UNIX_DIAG).
#ifndef MOULT_RESOURCE_UNIX_SOCKET_DIAG_H_
#define MOULT_RESOURCE_UNIX_SOCKET_DIAG_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "moult/base/unique_fd.h"

namespace moult::engine {

struct UnixDiag {
  uint8_t state = 0;                       // TCP_ESTABLISHED, TCP_CLOSE or TCP_LISTEN
  std::optional<uint32_t> peer_inode;      // 0: the peer is closed, or waits to be accepted
  std::vector<uint32_t> pending;           // listening: inodes of the clients that wait, 0 for closed ones
  uint32_t backlog = 0;                    // listening
  uint8_t shutdown = 0;                    // 1 read, 2 write
  std::optional<uint32_t> file_inode;      // of the socket file it is bound to
  uint32_t file_device = 0;                // major << 20 | minor
};

// The kernel's answer to one question, as it came; at a multiple of 4. kInternal: it is none.
absl::StatusOr<UnixDiag> ParseUnixDiag(absl::Span<const char> answer);

class UnixDiagSocket {
 public:
  static absl::StatusOr<UnixDiagSocket> Open();
  absl::StatusOr<UnixDiag> Query(uint32_t inode);

 private:
  explicit UnixDiagSocket(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

// Asks a question to which there is no answer. The first one makes the kernel load a module, which takes long.
void LoadUnixDiag();

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_UNIX_SOCKET_DIAG_H_
