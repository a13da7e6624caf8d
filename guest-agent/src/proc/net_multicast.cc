// SPDX-License-Identifier: Apache-2.0
#include "proc/net_multicast.h"

#include <sys/socket.h>

#include <cstring>

#include "proc/text.h"

namespace moult::proc {
namespace {

// "\t\t\t\t010000E0     1 0:00000000\t\t0": the address is printed as a word in host byte order.
bool ParseGroup(std::string_view line, MulticastGroup& group) {
  Scanner scanner(line);
  uint32_t address;
  if (!scanner.Hex(&address) || !scanner.Literal(' ')) return false;
  group.family = AF_INET;
  std::memcpy(group.address.data(), &address, sizeof(address));
  return true;
}

// "4    eth0            ff020000000000000000000000000001     1 0000000C 0"
bool ParseGroup6(std::string_view line, MulticastGroup& group) {
  Scanner scanner(line);
  std::string_view device;
  std::string_view digits;
  if (!scanner.Dec(&group.interface) || !scanner.Word(&device) || !scanner.Word(&digits)) return false;
  if (digits.size() != 2 * group.address.size()) return false;
  group.family = AF_INET6;
  for (size_t i = 0; i < group.address.size(); ++i) {
    Scanner byte(digits.substr(2 * i, 2));
    if (!byte.Hex(&group.address[i]) || !byte.AtEnd()) return false;
  }
  return true;
}

// "4\teth0      :     1      V3", after which its groups come.
bool ParseInterface(std::string_view line, uint32_t& interface) {
  Scanner scanner(line);
  return scanner.Dec(&interface) && scanner.Literal('\t');
}

}  // namespace

absl::StatusOr<std::vector<MulticastGroup>> ParseIgmp(std::string_view text) {
  std::vector<MulticastGroup> groups;
  uint32_t interface = 0;
  Lines lines(text);
  for (std::string_view line; lines.Next(&line);) {
    if (lines.number() == 1 && Scanner(line).Literal("Idx\t")) continue;
    if (!Scanner(line).Literal('\t')) {
      if (!ParseInterface(line, interface)) return Malformed("net/igmp", lines.number(), line);
      continue;
    }
    MulticastGroup& group = groups.emplace_back();
    group.interface = interface;
    if (interface == 0 || !ParseGroup(line, group)) return Malformed("net/igmp", lines.number(), line);
  }
  return groups;
}

absl::StatusOr<std::vector<MulticastGroup>> ParseIgmp6(std::string_view text) {
  std::vector<MulticastGroup> groups;
  Lines lines(text);
  for (std::string_view line; lines.Next(&line);) {
    if (!ParseGroup6(line, groups.emplace_back())) return Malformed("net/igmp6", lines.number(), line);
  }
  return groups;
}

}  // namespace moult::proc
