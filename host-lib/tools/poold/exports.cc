// SPDX-License-Identifier: Apache-2.0
#include "exports.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "moult/protocol/limits.h"
#include "moult/protocol/parse.h"

namespace moult::poold {

using host::rdma::Entries;
using host::rdma::Layout;
using host::rdma::Opened;
using host::rdma::Used;

namespace {

absl::Status NotThere(const std::string& name) {
  return absl::NotFoundError(absl::StrCat("no template ", name, "; list the pool to see what is"));
}

uint64_t BytesOf(const Layout& layout) { return layout.pages + layout.image + layout.manifest; }

std::string_view TextOf(absl::Span<const std::byte> bytes) {
  // SAFETY: bytes as bytes.
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

absl::StatusOr<Exports::Stamp> Exports::StampOf(const std::string& name) const {
  const std::string file = absl::StrCat(store_->path(), "/", name, "/", image::kManifestFile);
  struct stat info;
  if (lstat(file.c_str(), &info) != 0) return errno == ENOENT ? NotThere(name) : ErrnoStatus(absl::StrCat("stat ", name));
  return Stamp{info.st_dev, info.st_ino, static_cast<uint64_t>(info.st_size), static_cast<uint64_t>(info.st_ctim.tv_sec),
               static_cast<uint64_t>(info.st_ctim.tv_nsec)};
}

absl::StatusOr<Exports::Facts> Exports::FactsOf(const std::string& name) {
  MOULT_ASSIGN_OR_RETURN(const Stamp stamp, StampOf(name));
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto known = facts_.find(name);
    if (known != facts_.end() && known->second.stamp == stamp) return known->second;
  }
  MOULT_ASSIGN_OR_RETURN(const auto content, store_->Read(name));
  const image::TemplateReader& reader = *content->reader;
  Facts facts{stamp, content->tenant(), image::Sha256Of(reader.manifest_file()),
              {reader.pages_size(), reader.image_file().size(), reader.manifest_file().size()}};
  MOULT_RETURN_IF_ERROR(facts.layout.Check());
  const std::lock_guard<std::mutex> lock(mutex_);
  return facts_[name] = facts;
}

absl::StatusOr<Exports::Facts> Exports::FactsFor(const std::string& tenant, const std::string& name) {
  // What is no name could lead out of the store.
  if (!rpc::IsName(name)) return NotThere(name);
  auto facts = FactsOf(name);
  if (!facts.ok() || facts->tenant == tenant) return facts;
  return NotThere(name);
}

absl::StatusOr<Entries> Exports::List(const std::string& tenant, const std::string& after) {
  MOULT_ASSIGN_OR_RETURN(const std::vector<std::string> names, store_->Names());
  Entries list;
  for (auto name = std::upper_bound(names.begin(), names.end(), after); name != names.end(); ++name) {
    const auto facts = FactsFor(tenant, *name);
    if (!facts.ok()) continue;  // Another's, or damaged, or gone by now.
    list.more = list.entries.size() == host::rdma::kMaxEntries;
    if (list.more) break;
    list.entries.push_back({*name, facts->digest, BytesOf(facts->layout)});
  }
  return list;
}

absl::StatusOr<Used> Exports::Use(const std::string& tenant) {
  MOULT_ASSIGN_OR_RETURN(const std::vector<std::string> names, store_->Names());
  Used used;
  used.limit_bytes = budget_.limit();
  for (const std::string& name : names) {
    const auto facts = FactsFor(tenant, name);
    if (!facts.ok()) continue;
    used.used_bytes += BytesOf(facts->layout);
    ++used.templates;
  }
  return used;
}

absl::Status Exports::Load(const std::string& name, Export* to) {
  MOULT_ASSIGN_OR_RETURN(const auto content, store_->Read(name));
  const image::TemplateReader& reader = *content->reader;
  if (image::Sha256Of(reader.manifest_file()) != to->facts.digest) {
    return absl::UnavailableError(absl::StrCat("template ", name, " is being replaced; try again"));
  }
  MOULT_ASSIGN_OR_RETURN(Holding memory, Holding::Make(&budget_, to->facts.layout, "a template"));
  MOULT_RETURN_IF_ERROR(reader.ReadPages(0, memory.pages()));
  std::memcpy(memory.image().data(), reader.image_file().data(), memory.image().size());
  std::memcpy(memory.manifest().data(), reader.manifest_file().data(), memory.manifest().size());
  mprotect(memory.bytes().data(), memory.bytes().size(), PROT_READ);  // Against our own mistakes; all works without.
  to->memory = std::move(memory);
  return absl::OkStatus();
}

absl::StatusOr<Opened> Exports::Open(const std::string& tenant, const std::string& name, ibv_pd* domain) {
  MOULT_ASSIGN_OR_RETURN(const Facts facts, FactsFor(tenant, name));
  std::shared_ptr<Export> found, old;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::shared_ptr<Export>& place = exports_[name];
    if (place != nullptr && place->facts.stamp != facts.stamp) old = std::exchange(place, nullptr);
    if (place == nullptr) place = std::make_shared<Export>(facts);
    found = place;
  }
  if (old != nullptr) Revoke(old);
  const std::lock_guard<std::mutex> lock(found->mutex);
  if (found->revoked) return NotThere(name);
  if (found->memory.empty()) MOULT_RETURN_IF_ERROR(Load(name, found.get()));
  host::rdma::MemoryRegion& region = found->regions[domain];
  if (region == nullptr) {
    MOULT_ASSIGN_OR_RETURN(region, host::rdma::Register(domain, found->memory.bytes(), IBV_ACCESS_REMOTE_READ));
  }
  return Opened{facts.digest, {0, region->rkey, facts.layout}};
}

void Exports::Revoke(const std::shared_ptr<Export>& ended) {
  const std::lock_guard<std::mutex> lock(ended->mutex);
  ended->revoked = true;
  ended->regions.clear();  // Before the memory that they are of.
  ended->memory = Holding();
}

absl::Status Exports::Remove(const std::string& tenant, const std::string& name) {
  MOULT_RETURN_IF_ERROR(FactsFor(tenant, name).status());
  MOULT_RETURN_IF_ERROR(store_->Remove(name));
  std::shared_ptr<Export> ended;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    facts_.erase(name);
    const auto found = exports_.find(name);
    if (found == exports_.end()) return absl::OkStatus();
    ended = std::move(found->second);
    exports_.erase(found);
  }
  Revoke(ended);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Push>> Exports::BeginPush(const std::string& name, const Layout& layout, ibv_pd* domain) {
  if (!rpc::IsName(name)) return absl::InvalidArgumentError("push: the template's name is none");
  if (FactsOf(name).ok()) {
    return absl::AlreadyExistsError(absl::StrCat("template ", name, " is there already; remove it first, or take another name"));
  }
  MOULT_ASSIGN_OR_RETURN(const std::vector<std::string> names, store_->Names());
  uint64_t stored = 0;
  for (const std::string& other : names) {
    const auto facts = FactsOf(other);
    if (facts.ok()) stored += BytesOf(facts->layout);
  }
  if (stored > budget_.limit() || BytesOf(layout) > budget_.limit() - stored) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the pool is full: ", BytesOf(layout), " bytes beside ", stored, " go beyond its limit of ", budget_.limit(),
                     "; remove templates, or start moult-poold with a higher --limit-mib"));
  }
  auto push = std::make_unique<Push>();
  push->name = name;
  MOULT_ASSIGN_OR_RETURN(push->memory, Holding::Make(&budget_, layout, "a push"));
  MOULT_ASSIGN_OR_RETURN(push->writable, host::rdma::Register(domain, push->memory.bytes(), IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE));
  return push;
}

absl::Status Exports::CommitPush(const std::string& tenant, std::unique_ptr<Push> push) {
  push->writable.reset();  // What is checked from here on does not change any more.
  MOULT_ASSIGN_OR_RETURN(const auto manifest, image::ParseManifest(TextOf(push->memory.manifest())));
  if (manifest->tenant != tenant) {
    return absl::PermissionDeniedError(absl::StrCat("push template ", push->name, ": it is of another tenant than the key"));
  }
  const absl::Status status =
      store_->ImportFiles(push->name, TextOf(push->memory.manifest()), TextOf(push->memory.image()), push->memory.pages());
  if (status.ok()) return status;
  return Annotate(status, "push");
}

void Exports::Sweep() {
  std::map<std::string, Stamp> now;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [name, exported] : exports_) now.emplace(name, exported->facts.stamp);
  }
  for (const auto& [name, stamp] : now) {
    const auto found = StampOf(name);
    // An error of another kind is no word that it is gone.
    if (found.ok() ? *found == stamp : !absl::IsNotFound(found.status())) continue;
    std::shared_ptr<Export> ended;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      facts_.erase(name);
      const auto place = exports_.find(name);
      if (place == exports_.end() || place->second->facts.stamp != stamp) continue;
      ended = std::move(place->second);
      exports_.erase(place);
    }
    Revoke(ended);
  }
}

}  // namespace moult::poold
