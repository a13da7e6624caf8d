// SPDX-License-Identifier: Apache-2.0
//
// Names of pools, and which code opens which.
#ifndef MOULT_HOST_POOL_URI_H_
#define MOULT_HOST_POOL_URI_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "pool/template_pool.h"

namespace moult::host {

struct PoolNode {
  std::string host;  // a name or an address; an IPv6 address without its brackets
  uint16_t port;
  bool operator==(const PoolNode&) const = default;
};

// "file:/path", "dax:/path", "rdma://host:port[,host:port...]/": the nodes are of one pool, the first that
// answers is used.
struct PoolUri {
  std::string text;             // as it was given
  std::string scheme;           // "file"
  std::string path;             // absolute; of file and dax
  std::vector<PoolNode> nodes;  // of rdma
};

// kInvalidArgument: none of these forms.
absl::StatusOr<PoolUri> ParsePoolUri(absl::string_view text);

// As whom a pool is opened.
struct PoolAccess {
  std::string tenant;
  std::string key_file;  // of pools that ask for one; "": none
};

using TemplatePoolOpener = std::function<absl::StatusOr<std::shared_ptr<TemplatePool>>(
    const PoolUri& uri, const PoolAccess& access)>;

// From now on pools of `scheme` are opened so. Any thread.
void RegisterTemplatePool(const std::string& scheme, TemplatePoolOpener opener);

// May block. kUnimplemented: nothing here opens such a pool.
absl::StatusOr<std::shared_ptr<TemplatePool>> OpenTemplatePool(absl::string_view uri,
                                                               const PoolAccess& access);

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_URI_H_
