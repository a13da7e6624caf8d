// SPDX-License-Identifier: Apache-2.0
//
// What a host has of templates that lie elsewhere: a folder on a tmpfs, with a sparse file for each, shared
// by all VMMs of one user and tenant. No process looks after it:
//
//   DIGEST.pages   the pages that are there, others are holes. Its users hold a shared flock, which ends with
//   them;
//                  who takes an exclusive one may remove it
//   DIGEST.set     the chunks that were touched first at earlier attaches
//   .lock          held while an entry is made, found or removed; never while a page is fetched
//
// A page of the file is there whole and verified or not at all (remote/remote_pages.h), so a VMM that dies at
// any point leaves nothing that another must not use. Files keep their size for as long as they have a name.
// Who can write to the folder can change what functions run: it has mode 0700, and one that is another user's
// is refused.
#ifndef MOULT_HOST_POOL_CACHE_TEMPLATE_CACHE_H_
#define MOULT_HOST_POOL_CACHE_TEMPLATE_CACHE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "moult/base/unique_fd.h"

namespace moult::host {

// Room for the pages of one template, in use for as long as this lives.
class CacheEntry {
 public:
  // Of this process alone, for when the cache has no room, or there is none.
  static absl::StatusOr<CacheEntry> Private(uint64_t size);

  int fd() const { return fd_.get(); }
  bool shared() const { return shared_; }

 private:
  friend class TemplateCache;
  CacheEntry(UniqueFd fd, bool shared) : fd_(std::move(fd)), shared_(shared) {}
  UniqueFd fd_;
  bool shared_;
};

struct CacheUse {
  uint64_t used_bytes = 0;  // pages that are there
  uint64_t limit_bytes = 0;
  uint64_t templates = 0;
};

// Safe for several threads and processes.
class TemplateCache {
 public:
  // Makes `folder` and the tenant's in it. `limit_bytes`: of all templates' sizes together, each counted in
  // full; 0: half of what the file system has. kFailedPrecondition: no tmpfs, or another user's.
  static absl::StatusOr<std::unique_ptr<TemplateCache>> Open(const std::string& folder,
                                                             const std::string& tenant, uint64_t limit_bytes);

  // The entry of the template whose manifest has this digest (hex), made when there is none. What nobody uses
  // goes for it, the one first that was used longest ago. kResourceExhausted: full of templates in use;
  // kUnavailable: a process that stands still has the lock.
  absl::StatusOr<CacheEntry> Take(const std::string& digest, uint64_t size) const;

  // Chunks, in the order in which they were touched; none is no error, and what is no such list is none.
  std::vector<uint64_t> WorkingSet(const std::string& digest, uint64_t chunks) const;
  void SetWorkingSet(const std::string& digest, const std::vector<uint64_t>& set) const;

  CacheUse Use() const;
  const std::string& folder() const { return folder_; }

 private:
  TemplateCache(std::string folder, uint64_t limit) : folder_(std::move(folder)), limit_(limit) {}
  absl::StatusOr<UniqueFd> Lock() const;
  absl::Status MakeRoom(uint64_t size) const;
  std::string Path(const std::string& digest, const char* suffix) const;

  const std::string folder_;
  const uint64_t limit_;
};

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_CACHE_TEMPLATE_CACHE_H_
