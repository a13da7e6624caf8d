// SPDX-License-Identifier: Apache-2.0
//
// /proc/net/unix. Any process of the network namespace may bind a name with a newline in it and so forge
// lines of this file: what is found here must be compared with the socket itself before it is trusted.
#ifndef MOULT_PROC_NET_UNIX_H_
#define MOULT_PROC_NET_UNIX_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace moult::proc {

inline constexpr uint32_t kUnixListening = 0x10000;  // __SO_ACCEPTCON in `flags`

struct UnixSocketInfo {
  uint32_t refcount = 0;
  uint32_t protocol = 0;
  uint32_t flags = 0;
  uint32_t type = 0;   // SOCK_*
  uint32_t state = 0;  // SS_*: 1 unconnected, 2 connecting, 3 connected, 4 disconnecting
  uint64_t inode = 0;
  // As the kernel prints it: "@name" for an abstract name, in which every further 0 byte is '@' too.
  std::string path;

  bool listening() const { return (flags & kUnixListening) != 0; }
  bool abstract() const { return !path.empty() && path[0] == '@'; }
};

absl::StatusOr<std::vector<UnixSocketInfo>> ParseNetUnix(std::string_view text);

}  // namespace moult::proc

#endif  // MOULT_PROC_NET_UNIX_H_
