// SPDX-License-Identifier: Apache-2.0
#include "proc/net_inet.h"

#include <arpa/inet.h>
#include <sys/socket.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "proc/text.h"

namespace moult::proc {
namespace {

constexpr size_t kWordDigits = 8;

// "0100007F:1F90" or 32 digits. The address is printed as 32-bit words in host byte order.
bool ParseEndpoint(Scanner& scanner, InetEndpoint& endpoint) {
  scanner.Blanks();
  const size_t digits = scanner.rest().find(':');
  if (digits != kWordDigits && digits != 4 * kWordDigits) return false;
  endpoint.family = digits == kWordDigits ? AF_INET : AF_INET6;
  for (size_t at = 0; at < digits; at += kWordDigits) {
    Scanner word(scanner.rest().substr(at, kWordDigits));
    uint32_t value;
    if (!word.Hex(&value) || !word.AtEnd()) return false;
    std::memcpy(&endpoint.address[at / 2], &value, sizeof(value));
  }
  return scanner.Literal(scanner.rest().substr(0, digits)) && scanner.Literal(':') &&
         scanner.Hex(&endpoint.port);
}

// "  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1512 ..."
bool ParseLine(std::string_view line, InetSocketInfo& socket) {
  Scanner scanner(line);
  uint64_t slot;
  std::string_view skipped;
  return scanner.Dec(&slot) && scanner.Literal(':') && ParseEndpoint(scanner, socket.local) &&
         ParseEndpoint(scanner, socket.remote) && scanner.Hex(&socket.state) && scanner.Literal(' ') &&
         scanner.Hex(&socket.tx_queue) && scanner.Literal(':') && scanner.Hex(&socket.rx_queue) &&
         scanner.Word(&skipped) && scanner.Word(&skipped) && scanner.Dec(&socket.uid) &&
         scanner.Word(&skipped) && scanner.Dec(&socket.inode) && (scanner.AtEnd() || scanner.Literal(' '));
}

}  // namespace

std::string InetEndpoint::ToString() const {
  char text[INET6_ADDRSTRLEN];
  if (inet_ntop(family, address.data(), text, sizeof(text)) == nullptr) return "?";
  return family == AF_INET6 ? absl::StrCat("[", text, "]:", port) : absl::StrCat(text, ":", port);
}

absl::StatusOr<std::vector<InetSocketInfo>> ParseNetInet(std::string_view text) {
  std::vector<InetSocketInfo> sockets;
  Lines lines(text);
  for (std::string_view line; lines.Next(&line);) {
    Scanner scanner(line);
    if (lines.number() == 1 && scanner.Blanks() && scanner.Literal("sl ")) continue;
    if (!ParseLine(line, sockets.emplace_back())) return Malformed("net/inet", lines.number(), line);
  }
  return sockets;
}

}  // namespace moult::proc
