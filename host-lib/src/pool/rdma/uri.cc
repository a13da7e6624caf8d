// SPDX-License-Identifier: Apache-2.0
#include "pool/rdma/uri.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "moult/base/status.h"

namespace moult::host::rdma {
namespace {

constexpr size_t kMaxHost = 253;  // of a name in DNS

bool IsHost(absl::string_view host, bool in_brackets) {
  return !host.empty() && host.size() <= kMaxHost && std::all_of(host.begin(), host.end(), [&](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return absl::ascii_isalnum(byte) || c == '.' || c == '-' || (in_brackets && (c == ':' || c == '%'));
  });
}

absl::StatusOr<Node> ParseNode(absl::string_view text) {
  Node node;
  absl::string_view rest = text;
  const bool brackets = absl::ConsumePrefix(&rest, "[");
  const size_t end = rest.find(brackets ? ']' : ':');
  node.host = std::string(rest.substr(0, end));
  rest = end == absl::string_view::npos ? absl::string_view() : rest.substr(end + (brackets ? 1 : 0));
  bool good = IsHost(node.host, brackets) && (!brackets || end != absl::string_view::npos);
  if (good && !rest.empty()) {
    uint32_t port = 0;
    good = absl::ConsumePrefix(&rest, ":") && !rest.empty() && absl::ascii_isdigit(static_cast<unsigned char>(rest[0])) &&
           absl::SimpleAtoi(rest, &port) && port >= 1 && port <= 65535;
    node.port = static_cast<uint16_t>(port);
  }
  if (!good) return absl::InvalidArgumentError(absl::StrCat("\"", text.substr(0, 80), "\" is no HOST or HOST:PORT"));
  return node;
}

}  // namespace

std::string Node::text() const {
  return host.find(':') == std::string::npos ? absl::StrCat(host, ":", port) : absl::StrCat("[", host, "]:", port);
}

absl::StatusOr<std::vector<Node>> ParseUri(absl::string_view uri) {
  const auto bad = [&](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("pool ", uri.substr(0, 200), ": ", why, "; write rdma://HOST[:PORT][,HOST[:PORT]]/"));
  };
  absl::string_view rest = uri;
  if (!absl::ConsumePrefix(&rest, "rdma://")) return bad("does not begin with rdma://");
  absl::ConsumeSuffix(&rest, "/");
  if (rest.empty()) return bad("names no host");
  std::vector<Node> nodes;
  for (const absl::string_view part : absl::StrSplit(rest, ',')) {
    if (nodes.size() == kMaxNodes) return bad(absl::StrCat("names more than ", kMaxNodes, " hosts"));
    const auto node = ParseNode(part);
    if (!node.ok()) return bad(node.status().message());
    if (std::find(nodes.begin(), nodes.end(), *node) != nodes.end()) return bad(absl::StrCat("names ", part, " twice"));
    nodes.push_back(*node);
  }
  return nodes;
}

}  // namespace moult::host::rdma
