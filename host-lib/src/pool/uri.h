// SPDX-License-Identifier: Apache-2.0
//
// Names of pools, and which code opens which.
#ifndef MOULT_HOST_POOL_URI_H_
#define MOULT_HOST_POOL_URI_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "pool/page_pool.h"
#include "pool/template_pool.h"
#include "serving/serving_threads.h"

namespace moult::host {

inline constexpr uint16_t kPoolPort = 7471;

struct PoolNode {
  std::string host;  // a name or an address; an IPv6 address without its brackets
  uint16_t port = kPoolPort;
  std::string text() const;
  bool operator==(const PoolNode&) const = default;
};

// "file:/path", "dax:/dev/dax0.0", "rdma://host[:port][,host[:port]...]/": the nodes hold the same templates,
// the preferred first.
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
  // What may block without an end is theirs to do, if there are such: a vm's.
  std::shared_ptr<ServingThreads> threads{};
};

// kInvalidArgument: no such URI, or a key is missing; else as the kind of pool has it. May block on a key
// file, or a folder.
absl::StatusOr<std::shared_ptr<TemplatePool>> OpenTemplatePool(absl::string_view uri,
                                                               const PoolAccess& access);

// Where pages of guest RAM go: file:FOLDER, or rdma:// with one node. `limit` in bytes, 0: as much as fits, which is
// no limit for rdma:. Errors likewise.
absl::StatusOr<std::shared_ptr<PagePool>> OpenPagePool(absl::string_view uri, const PoolAccess& access, uint64_t limit);

// Makes an empty pool of a device or a file (dax:). `size` 0: all of it. `force`: what is on it goes. Blocks.
absl::Status FormatTemplatePool(absl::string_view uri, uint64_t size, bool force,
                                TemplatePool::Clock::time_point deadline);

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_URI_H_
