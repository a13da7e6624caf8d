// SPDX-License-Identifier: Apache-2.0
//
// Templates by the URI of their pool.
#ifndef MOULT_HOST_REMOTE_REMOTE_STORE_H_
#define MOULT_HOST_REMOTE_REMOTE_STORE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "pool/cache/template_cache.h"
#include "pool/file/store.h"
#include "pool/uri.h"

namespace moult::host {

struct RemoteStoreConfig {
  PoolAccess access;
  std::string cache;         // folder; "": none, each slot has memory of its own
  uint64_t cache_bytes = 0;  // 0: half of the file system
};

struct RemoteName {
  std::string uri;
  std::string name;
  std::string digest;  // hex, of the manifest; "": whatever is there
};

// Safe for several threads. Pools that were opened stay open.
class RemoteStore {
 public:
  using Clock = TemplatePool::Clock;

  explicit RemoteStore(RemoteStoreConfig config) : config_(std::move(config)) {}

  // A template whose manifest and image are here, and checked; of its pages there may be none, or all, which
  // were checked too, when the pool is memory of this host. Blocks. `notes`: why it is not cached. kDataLoss:
  // damaged, or not the one that was asked for.
  absl::StatusOr<std::shared_ptr<const Template>> Open(const RemoteName& name, Clock::time_point deadline,
                                                       std::vector<std::string>* notes);
  // By its URI, with this vm's tenant and key.
  absl::StatusOr<std::shared_ptr<TemplatePool>> Pool(const std::string& uri);
  // kNotFound: there is no cache.
  absl::StatusOr<CacheUse> Use() const;

 private:
  absl::StatusOr<std::shared_ptr<const TemplateCache>> Cache();
  absl::StatusOr<CacheEntry> Entry(const std::string& digest, uint64_t size,
                                   std::shared_ptr<const TemplateCache>* cache,
                                   std::vector<std::string>* notes);

  // What is known of a template whose pages are `direct`; null: nothing, or of another.
  std::shared_ptr<const Template> Known(const RemoteName& name, const DirectPages& direct) const;
  void Remember(const std::string& identity, std::shared_ptr<const Template> content);

  const RemoteStoreConfig config_;
  mutable std::mutex mutex_;  // guards the rest; not held over a pool
  std::map<std::string, std::shared_ptr<TemplatePool>> pools_;
  std::shared_ptr<const TemplateCache> cache_;
  std::map<std::string, std::shared_ptr<const Template>>
      known_;  // by identity; without pages, which would be held
  size_t known_bytes_ = 0;  // of their files
};

// Manifest and image of `source`, checked.
absl::StatusOr<std::shared_ptr<Template>> CheckRemote(const std::string& name, const std::string& where,
                                                      const RemoteTemplate& source);

}  // namespace moult::host

#endif  // MOULT_HOST_REMOTE_REMOTE_STORE_H_
