// SPDX-License-Identifier: Apache-2.0
#include "remote/remote_store.h"

#include <fcntl.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "moult/protocol/digest.h"
#include "remote/remote_pages.h"

namespace moult::host {
namespace {

constexpr size_t kMostPools = 16;
// Of what is known of templates: each has its manifest and image, twice, as bytes and unpacked.
constexpr size_t kMostKnown = 32;
constexpr size_t kMostKnownBytes = 64u << 20;

size_t FileBytes(const Template& content) {
  return content.reader->manifest_file().size() + content.reader->image_file().size();
}

std::shared_ptr<const Template> With(const Template& known, std::shared_ptr<const DirectPages> direct) {
  auto content = std::make_shared<Template>(known);
  content->direct = std::move(direct);
  return content;
}

}  // namespace

absl::StatusOr<std::shared_ptr<Template>> CheckRemote(const std::string& name, const std::string& where,
                                                      const RemoteTemplate& source) {
  MOULT_ASSIGN_OR_RETURN(auto reader, image::TemplateReader::FromFiles(where, source.manifest_file(),
                                                                       source.image_file(), UniqueFd()));
  return MakeTemplate(name, where, std::move(reader));
}

absl::StatusOr<std::shared_ptr<TemplatePool>> RemoteStore::Pool(const std::string& uri) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto known = pools_.find(uri);
    if (known != pools_.end()) return known->second;
  }
  MOULT_ASSIGN_OR_RETURN(auto pool, OpenTemplatePool(uri, config_.access));
  const std::lock_guard<std::mutex> lock(mutex_);
  if (pools_.size() >= kMostPools) pools_.erase(pools_.begin());
  return pools_.try_emplace(uri, std::move(pool)).first->second;
}

absl::StatusOr<std::shared_ptr<const TemplateCache>> RemoteStore::Cache() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (cache_ == nullptr && !config_.cache.empty()) {
    MOULT_ASSIGN_OR_RETURN(cache_,
                           TemplateCache::Open(config_.cache, config_.access.tenant, config_.cache_bytes));
  }
  return cache_;
}

absl::StatusOr<CacheEntry> RemoteStore::Entry(const std::string& digest, uint64_t size,
                                              std::shared_ptr<const TemplateCache>* cache,
                                              std::vector<std::string>* notes) {
  auto opened = Cache();
  if (opened.ok() && *opened == nullptr) return CacheEntry::Private(size);
  absl::StatusOr<CacheEntry> entry = absl::UnknownError("no cache");
  if (opened.ok()) {
    *cache = *std::move(opened);
    entry = (*cache)->Take(digest, size);
  } else {
    entry = opened.status();
  }
  if (entry.ok()) return entry;
  notes->push_back(absl::StrCat("not cached, because: ", entry.status().message()));
  return CacheEntry::Private(size);
}

std::shared_ptr<const Template> RemoteStore::Known(const RemoteName& name, const DirectPages& direct) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = known_.find(direct.identity());
  if (found == known_.end()) return nullptr;
  return name.digest.empty() || name.digest == found->second->digest ? found->second : nullptr;
}

void RemoteStore::Remember(const std::string& identity, std::shared_ptr<const Template> content) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto forget = [this](auto known) {
    known_bytes_ -= FileBytes(*known->second);
    known_.erase(known);
  };
  if (const auto old = known_.find(identity); old != known_.end()) forget(old);
  const size_t bytes = FileBytes(*content);
  while (!known_.empty() && (known_.size() >= kMostKnown || known_bytes_ + bytes > kMostKnownBytes)) forget(known_.begin());
  known_bytes_ += bytes;
  known_.emplace(identity, std::move(content));
}

absl::StatusOr<std::shared_ptr<const Template>> RemoteStore::Open(const RemoteName& wanted,
                                                                  Clock::time_point deadline,
                                                                  std::vector<std::string>* notes) {
  MOULT_ASSIGN_OR_RETURN(const auto pool, Pool(wanted.uri));
  MOULT_ASSIGN_OR_RETURN(const auto source, pool->Open(wanted.name, deadline));
  auto direct = source->direct();
  if (direct != nullptr) {
    const auto known = Known(wanted, *direct);
    if (known != nullptr && known->reader->manifest().pages->size == source->pages_size())
      return With(*known, std::move(direct));
  }
  const std::string where = absl::StrCat(wanted.name, " in pool ", wanted.uri);
  // Before anything of it is looked at.
  const std::string digest = image::DigestHex(image::Sha256Of(source->manifest_file()));
  if (!wanted.digest.empty() && digest != wanted.digest) {
    return absl::DataLossError(absl::StrCat("template ", where, ": its manifest has digest ", digest,
                                            ", asked for was ", wanted.digest,
                                            "; name the one that you mean, or push it again"));
  }
  MOULT_ASSIGN_OR_RETURN(auto content, CheckRemote(wanted.name, where, *source));
  const image::ManifestT& manifest = content->reader->manifest();
  if (source->pages_size() != manifest.pages->size) {
    return absl::DataLossError(absl::StrCat("template ", where, ": pages: ", source->pages_size(),
                                            " bytes, the manifest says ", manifest.pages->size));
  }
  if (manifest.pages->size == 0) return content;
  if (direct != nullptr) {
    MOULT_RETURN_IF_ERROR(direct->Verify(content->reader->leaves(), deadline));
    Remember(direct->identity(), content);
    return With(*content, std::move(direct));
  }
  std::shared_ptr<const TemplateCache> cache;
  MOULT_ASSIGN_OR_RETURN(CacheEntry entry, Entry(digest, manifest.pages->size, &cache, notes));
  if (!entry.shared()) cache = nullptr;
  MOULT_ASSIGN_OR_RETURN(content->remote, RemotePages::Create(digest, std::string(where), content->reader->leaves(), source,
                                                              std::move(entry), std::move(cache)));
  return content;
}

absl::StatusOr<CacheUse> RemoteStore::Use() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (cache_ == nullptr) return absl::NotFoundError("there is no cache");
  return cache_->Use();
}

}  // namespace moult::host
