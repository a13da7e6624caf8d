// SPDX-License-Identifier: Apache-2.0
#include "pool/uri.h"

#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/numbers.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "moult/base/status.h"
#include "pool/bounded_pool.h"
#include "pool/dax/dax_templates.h"
#include "pool/file/file_system.h"
#include "pool/file/file_templates.h"
#include "pool/file/page_file.h"
#include "pool/rdma/lent_pages.h"
#include "pool/rdma/rdma_pool.h"

namespace moult::host {
namespace {

constexpr size_t kMostNodes = 16;
constexpr size_t kLongestUri = 4096;
constexpr size_t kLongestHost = 255;

absl::Status Bad(absl::string_view text, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("pool \"", text.substr(0, 200), "\": ", what,
                   "; give file:/PATH, dax:/PATH or rdma://HOST[:PORT][,HOST[:PORT]]/"));
}

bool IsHost(absl::string_view host, bool bracketed) {
  if (host.empty() || host.size() > kLongestHost) return false;
  for (const char c : host) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    const bool sign = bracketed ? c == ':' || c == '.' || c == '%' : c == '.' || c == '-' || c == '_';
    if (!letter && !sign) return false;
  }
  return true;
}

absl::StatusOr<PoolNode> ParseNode(absl::string_view uri, absl::string_view text) {
  PoolNode node;
  const bool bracketed = absl::ConsumePrefix(&text, "[");
  const size_t end = text.find(bracketed ? ']' : ':');
  const absl::string_view host = text.substr(0, end);
  if (!IsHost(host, bracketed) || (bracketed && end == absl::string_view::npos)) {
    return Bad(uri, "a node is no host name or address");
  }
  node.host = std::string(host);
  if (end == absl::string_view::npos) return node;
  absl::string_view digits = text.substr(end + (bracketed ? 1 : 0));
  if (digits.empty()) return node;
  uint32_t port = 0;
  const bool whole =
      absl::ConsumePrefix(&digits, ":") && !digits.empty() && digits.front() >= '0' && digits.front() <= '9';
  if (!whole || !absl::SimpleAtoi(digits, &port) || port == 0 || port > UINT16_MAX) {
    return Bad(uri, "a port is not 1 to 65535");
  }
  node.port = static_cast<uint16_t>(port);
  return node;
}

}  // namespace

std::string PoolNode::text() const {
  return host.find(':') == std::string::npos ? absl::StrCat(host, ":", port)
                                             : absl::StrCat("[", host, "]:", port);
}

absl::StatusOr<PoolUri> ParsePoolUri(absl::string_view text) {
  const size_t colon = text.find(':');
  if (text.size() > kLongestUri) return Bad(text, "is too long");
  if (text.find('\0') != absl::string_view::npos) return Bad(text, "has a NUL byte");
  if (colon == absl::string_view::npos) return Bad(text, "has no scheme");
  PoolUri uri{std::string(text), std::string(text.substr(0, colon)), {}, {}};
  absl::string_view rest = text.substr(colon + 1);
  if (uri.scheme == "file" || uri.scheme == "dax") {
    if (rest.substr(0, 3) == "///") rest.remove_prefix(2);
    if (rest.empty() || rest.front() != '/' || rest.substr(0, 2) == "//")
      return Bad(text, "has no absolute path");
    uri.path = std::string(rest);
    return uri;
  }
  if (uri.scheme != "rdma") return Bad(text, "is of no kind that there is");
  if (rest.substr(0, 2) != "//") return Bad(text, "has no host");
  rest.remove_prefix(2);
  if (!rest.empty() && rest.back() == '/') rest.remove_suffix(1);
  for (const absl::string_view part : absl::StrSplit(rest, ',')) {
    if (uri.nodes.size() == kMostNodes) return Bad(text, "has too many nodes");
    MOULT_ASSIGN_OR_RETURN(PoolNode node, ParseNode(text, part));
    if (absl::c_linear_search(uri.nodes, node)) return Bad(text, "has a node twice");
    uri.nodes.push_back(std::move(node));
  }
  return uri;
}

absl::StatusOr<std::shared_ptr<TemplatePool>> OpenTemplatePool(absl::string_view text,
                                                               const PoolAccess& access) {
  MOULT_ASSIGN_OR_RETURN(const PoolUri uri, ParsePoolUri(text));
  if (uri.scheme == "file") return OpenFileTemplates(uri, access);
  return uri.scheme == "dax" ? OpenDaxTemplates(uri, access) : OpenRdmaTemplates(uri, access);
}

absl::StatusOr<std::shared_ptr<PagePool>> OpenPagePool(absl::string_view text, const PoolAccess& access, uint64_t limit) {
  if (absl::StartsWith(text, "rdma:")) {
    MOULT_ASSIGN_OR_RETURN(const PoolUri uri, ParsePoolUri(text));
    return OpenLentPages(uri, access, limit);
  }
  absl::string_view folder = text;
  if (!absl::ConsumePrefix(&folder, "file:") || folder.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("pool ", text, ": no pages of guest RAM go there; give file:FOLDER or rdma://HOST[:PORT]/"));
  }
  MOULT_ASSIGN_OR_RETURN(std::shared_ptr<PagePool> file, PageFile::Create(std::string(folder), limit != 0 ? limit : UINT64_MAX));
  // What is memory anyway answers.
  if (access.threads == nullptr || IsInMemory(std::string(folder))) return file;
  return std::make_shared<BoundedPool>(std::move(file), access.threads, BoundedPool::Limits());
}

absl::Status FormatTemplatePool(absl::string_view text, uint64_t size, bool force,
                                Clock::time_point deadline) {
  MOULT_ASSIGN_OR_RETURN(const PoolUri uri, ParsePoolUri(text));
  if (uri.scheme == "dax") return FormatDaxTemplates(uri, size, force, deadline);
  return absl::InvalidArgumentError(
      absl::StrCat("format ", text, ": pools of this kind are not formatted; only dax:/PATH is"));
}

}  // namespace moult::host
