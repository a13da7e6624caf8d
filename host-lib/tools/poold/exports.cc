// SPDX-License-Identifier: Apache-2.0
#include "exports.h"

#include <algorithm>
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

uint64_t BytesOf(const Layout& layout) { return layout.pages + layout.image + layout.manifest; }

std::string_view TextOf(absl::Span<const std::byte> bytes) {
  // SAFETY: bytes as bytes.
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

absl::StatusOr<Facts> Exports::FactsOf(const std::string& name, const std::string& stamp) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto known = facts_.find(name);
    if (known != facts_.end() && known->second.stamp == stamp) return known->second;
  }
  MOULT_ASSIGN_OR_RETURN(const Facts facts, backing_->Read(name));
  MOULT_RETURN_IF_ERROR(facts.layout.Check());
  const std::lock_guard<std::mutex> lock(mutex_);
  return facts_[name] = facts;
}

absl::StatusOr<Facts> Exports::FactsOf(const std::string& name) {
  MOULT_ASSIGN_OR_RETURN(const std::string stamp, backing_->StampOf(name));
  return FactsOf(name, stamp);
}

absl::StatusOr<Facts> Exports::FactsFor(const std::string& tenant, const std::string& name) {
  // What is no name could lead out of a folder.
  if (!rpc::IsName(name)) return NoTemplate(name);
  auto facts = FactsOf(name);
  if (!facts.ok() || facts->tenant == tenant) return facts;
  return NoTemplate(name);
}

absl::StatusOr<uint64_t> Exports::Limit() {
  MOULT_ASSIGN_OR_RETURN(const std::optional<uint64_t> capacity, backing_->Capacity());
  return capacity.value_or(budget_.limit());
}

absl::StatusOr<Entries> Exports::List(const std::string& tenant, const std::string& after) {
  MOULT_ASSIGN_OR_RETURN(const std::vector<Backing::Entry> all, backing_->List());
  Entries list;
  for (const auto& [name, stamp] : all) {
    if (name <= after) continue;
    const auto facts = FactsOf(name, stamp);
    if (!facts.ok() || facts->tenant != tenant) continue;  // Damaged, or gone by now, or another's.
    list.more = list.entries.size() == host::rdma::kMaxEntries;
    if (list.more) break;
    list.entries.push_back({name, facts->digest, BytesOf(facts->layout)});
  }
  return list;
}

absl::StatusOr<Used> Exports::Use(const std::string& tenant) {
  MOULT_ASSIGN_OR_RETURN(const std::vector<Backing::Entry> all, backing_->List());
  Used used;
  MOULT_ASSIGN_OR_RETURN(used.limit_bytes, Limit());
  for (const auto& [name, stamp] : all) {
    const auto facts = FactsOf(name, stamp);
    if (!facts.ok() || facts->tenant != tenant) continue;
    used.used_bytes += BytesOf(facts->layout);
    ++used.templates;
  }
  return used;
}

absl::Status Exports::Load(const std::string& name, Export* found, ibv_pd* domain) {
  // Not every medium lets a device read where it lies (a file of a dax file system), and not every device.
  for (const Backing::Place place : {Backing::Place::kWhereItLies, Backing::Place::kCopy}) {
    if (found->memory.empty()) {
      MOULT_ASSIGN_OR_RETURN(found->memory, backing_->Load(name, found->facts, place, &budget_));
    }
    found->memory.AllowWrites(true);
    auto region = host::rdma::Register(domain, found->memory.bytes(), IBV_ACCESS_REMOTE_READ);
    found->memory.AllowWrites(false);
    if (region.ok()) {
      found->regions[domain] = *std::move(region);
      return absl::OkStatus();
    }
    if (found->memory.copied() || !found->regions.empty() || absl::IsResourceExhausted(region.status())) return region.status();
    found->memory = Holding();
  }
  return absl::InternalError("what was copied says that it was not");
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
  if (found->revoked) return NoTemplate(name);
  if (!found->regions.contains(domain)) MOULT_RETURN_IF_ERROR(Load(name, found.get(), domain));
  return Opened{facts.digest, {0, found->regions.at(domain)->rkey, facts.layout}};
}

void Exports::Revoke(const std::shared_ptr<Export>& ended) {
  const std::lock_guard<std::mutex> lock(ended->mutex);
  ended->revoked = true;
  ended->regions.clear();  // Before the memory that they are of.
  ended->memory = Holding();
}

absl::Status Exports::Remove(const std::string& tenant, const std::string& name) {
  MOULT_RETURN_IF_ERROR(FactsFor(tenant, name).status());
  MOULT_RETURN_IF_ERROR(backing_->Remove(name));
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
  MOULT_ASSIGN_OR_RETURN(const std::vector<Backing::Entry> all, backing_->List());
  uint64_t stored = 0;
  for (const auto& [other, stamp] : all) {
    const auto facts = FactsOf(other, stamp);
    if (facts.ok()) stored += BytesOf(facts->layout);
  }
  MOULT_ASSIGN_OR_RETURN(const uint64_t limit, Limit());
  if (stored > limit || BytesOf(layout) > limit - stored) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the pool is full: ", BytesOf(layout), " bytes beside ", stored, " go beyond its limit of ", limit,
                     "; remove templates, or start moult-poold with a higher --limit-mib or on a larger device"));
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
      backing_->Add(push->name, TextOf(push->memory.manifest()), TextOf(push->memory.image()), push->memory.pages());
  if (status.ok()) return status;
  return Annotate(status, "push");
}

void Exports::Sweep() {
  std::map<std::string, std::string> now;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [name, exported] : exports_) now.emplace(name, exported->facts.stamp);
  }
  for (const auto& [name, stamp] : now) {
    const auto found = backing_->StampOf(name);
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
