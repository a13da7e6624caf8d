// SPDX-License-Identifier: Apache-2.0
#include "proc/net_unix.h"

#include <utility>

#include "proc/text.h"

namespace moult::proc {
namespace {

constexpr std::string_view kHeader = "Num       RefCount Protocol Flags    Type St Inode Path";

// "00000000f05fb4c4: 00000003 00000000 00010000 0001 01  1509 /run/x"
bool ParseLine(std::string_view line, UnixSocketInfo& socket) {
  Scanner scanner(line);
  uint64_t address;
  if (!scanner.Hex(&address) || !scanner.Literal(": ") || !scanner.Hex(&socket.refcount) ||
      !scanner.Literal(' ') || !scanner.Hex(&socket.protocol) || !scanner.Literal(' ') ||
      !scanner.Hex(&socket.flags) || !scanner.Literal(' ') || !scanner.Hex(&socket.type) ||
      !scanner.Literal(' ') || !scanner.Hex(&socket.state) || !scanner.Literal(' ') ||
      !scanner.Dec(&socket.inode)) {
    return false;
  }
  if (scanner.AtEnd()) return true;
  // One space, then the name as it is: it may begin with spaces.
  if (!scanner.Literal(' ')) return false;
  socket.path = scanner.rest();
  return true;
}

}  // namespace

absl::StatusOr<std::vector<UnixSocketInfo>> ParseNetUnix(std::string_view text) {
  std::vector<UnixSocketInfo> sockets;
  Lines lines(text);
  for (std::string_view line; lines.Next(&line);) {
    if (lines.number() == 1 && line == kHeader) continue;
    UnixSocketInfo socket;
    if (ParseLine(line, socket)) {
      sockets.push_back(std::move(socket));
    } else if (!sockets.empty() && !sockets.back().path.empty()) {
      // The kernel does not escape newlines: this is the rest of the name before.
      sockets.back().path.append("\n").append(line);
    } else {
      return Malformed("net/unix", lines.number(), line);
    }
  }
  return sockets;
}

}  // namespace moult::proc
