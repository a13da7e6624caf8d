// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_HOST_POOL_RDMA_URI_H_
#define MOULT_HOST_POOL_RDMA_URI_H_

#include <cstdint>
#include <string>
#include "absl/strings/string_view.h"
#include <vector>

#include "absl/status/statusor.h"

namespace moult::host::rdma {

inline constexpr uint16_t kDefaultPort = 7471;
inline constexpr size_t kMaxNodes = 8;

struct Node {
  std::string host;  // a name, or an address without its brackets
  uint16_t port = kDefaultPort;
  std::string text() const;
  bool operator==(const Node&) const = default;
};

// "rdma://a/", "rdma://a:7471,[fe80::1]:7472/": one memory node, or several that hold the same templates, the preferred
// first. kInvalidArgument.
absl::StatusOr<std::vector<Node>> ParseUri(absl::string_view uri);

}  // namespace moult::host::rdma

#endif  // MOULT_HOST_POOL_RDMA_URI_H_
