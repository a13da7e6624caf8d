// SPDX-License-Identifier: Apache-2.0
#include "pool/rdma/rdma_pool.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "pool/rdma/remote.h"

namespace moult::host {
namespace {

using rdma::Link;
using rdma::Links;

constexpr size_t kPushStep = 4 << 20;
constexpr unsigned kMaxConnections = 64;

class RdmaPool final : public TemplatePool {
 public:
  RdmaPool(std::string uri, std::string tenant, std::shared_ptr<Links> links)
      : uri_(std::move(uri)), tenant_(std::move(tenant)), links_(std::move(links)) {}

  const std::string& uri() const override { return uri_; }

  absl::StatusOr<std::vector<PoolEntry>> List(Clock::time_point deadline) override {
    return AtFirst<std::vector<PoolEntry>>(
        "list", deadline, [&](Link::Lease& lease, Clock::time_point until) { return ListAt(lease, until); });
  }

  absl::StatusOr<std::shared_ptr<RemoteTemplate>> Open(const std::string& name,
                                                       Clock::time_point deadline) override {
    return rdma::Remote::Open(links_, name, deadline);
  }

  absl::Status Push(const Template& content, Clock::time_point deadline, const TransferProgress& progress) override {
    return OnFirst(absl::StrCat("push template ", content.name), deadline,
                   [&](Link::Lease& lease) { return PushTo(lease, content, deadline, progress); });
  }

  absl::Status Remove(const std::string& name, Clock::time_point deadline) override {
    return OnFirst(absl::StrCat("remove template ", name), deadline, [&](Link::Lease& lease) {
      return lease->Ask<rdma::Done>(rdma::Remove{name}, deadline).status();
    });
  }

  absl::StatusOr<PoolUse> Use(Clock::time_point deadline) override {
    return AtFirst<PoolUse>("ask for its use", deadline,
                            [](Link::Lease& lease, Clock::time_point until) -> absl::StatusOr<PoolUse> {
                              MOULT_ASSIGN_OR_RETURN(const rdma::Used used,
                                                     lease->Ask<rdma::Used>(rdma::Use{}, until));
                              return PoolUse{.used_bytes = used.used_bytes,
                                             .limit_bytes = used.limit_bytes,
                                             .templates = used.templates,
                                             .lent_bytes = used.lent_bytes,
                                             .lend_limit_bytes = used.lend_limit_bytes};
                            });
  }

 private:
  absl::Status Told(const absl::Status& status, const std::string& what) const {
    return Annotate(status, absl::StrCat("pool ", uri_, ": ", what));
  }

  // Of the first node that answers, again where a kept connection had ended.
  template <typename Answer, typename Ask>
  absl::StatusOr<Answer> AtFirst(const std::string& what, Clock::time_point deadline, Ask ask) {
    absl::Status first;
    for (size_t i = 0; i < links_->size(); ++i) {
      const auto until = rdma::ShareOf(deadline, links_->size() - i);
      for (bool again = true; again;) {
        auto lease = (*links_)[i].Take(until);
        auto answer = lease.ok() ? ask(*lease, until) : absl::StatusOr<Answer>(lease.status());
        if (answer.ok()) return answer;
        if (first.ok()) first = answer.status();
        again = lease.ok() && !lease->fresh() && !(*lease)->usable() &&
                !absl::IsDeadlineExceeded(answer.status());
      }
    }
    return Told(first, what);
  }

  // What changes a node is tried again only where it was certainly not done: no connection.
  template <typename Do>
  absl::Status OnFirst(const std::string& what, Clock::time_point deadline, Do act) {
    auto lease = links_->front().Take(deadline);
    return Told(lease.ok() ? act(*lease) : lease.status(), what);
  }

  absl::StatusOr<std::vector<PoolEntry>> ListAt(Link::Lease& lease, Clock::time_point deadline) const {
    std::vector<PoolEntry> list;
    for (bool more = true; more;) {
      const std::string after = list.empty() ? std::string() : list.back().name;
      MOULT_ASSIGN_OR_RETURN(const rdma::Entries some,
                             lease->Ask<rdma::Entries>(rdma::List{after}, deadline));
      for (const rdma::Entry& entry : some.entries) {
        if (entry.name <= after) return absl::InternalError("the memory node's list does not rise");
        list.push_back({entry.name, image::DigestHex(entry.digest), tenant_, entry.bytes});
      }
      more = some.more;
    }
    return list;
  }

  static absl::Status PushTo(Link::Lease& lease, const Template& content, Clock::time_point deadline,
                             const TransferProgress& progress) {
    const image::TemplateReader& reader = *content.reader;
    const rdma::Layout layout{reader.pages_size(), reader.image_file().size(), reader.manifest_file().size()};
    MOULT_ASSIGN_OR_RETURN(const rdma::PushTo to,
                           lease->Ask<rdma::PushTo>(rdma::PushBegin{content.name, layout}, deadline));
    if (to.region.layout != layout)
      return absl::InternalError("the memory node gives another region than was asked for");
    std::vector<std::byte> buffer(std::min<uint64_t>(kPushStep, layout.pages));
    for (uint64_t at = 0; at < layout.pages; at += kPushStep) {
      const auto piece = absl::MakeSpan(buffer).first(std::min<uint64_t>(kPushStep, layout.pages - at));
      MOULT_RETURN_IF_ERROR(
          reader.ReadPages(at, piece));  // Held against the digests: nothing bad gets into a pool.
      MOULT_RETURN_IF_ERROR(lease->Write(to.region, at, piece, deadline));
      if (progress) progress(at + piece.size(), layout.pages);
    }
    for (const auto& [offset, file] :
         {std::pair<uint64_t, const std::string*>{layout.image_at(), &reader.image_file()},
          {layout.manifest_at(), &reader.manifest_file()}}) {
      // SAFETY: a string's own bytes, as bytes.
      const auto bytes = absl::MakeConstSpan(reinterpret_cast<const std::byte*>(file->data()), file->size());
      MOULT_RETURN_IF_ERROR(lease->Write(to.region, offset, bytes, deadline));
    }
    return lease->Ask<rdma::Done>(rdma::PushCommit{}, deadline).status();
  }

  const std::string uri_;
  const std::string tenant_;
  const std::shared_ptr<Links> links_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<TemplatePool>> OpenRdmaPool(const PoolUri& uri, const rdma::TenantKey& key,
                                                           const RdmaPoolOptions& options) {
  if (options.connections == 0 || options.connections > kMaxConnections) {
    return absl::InvalidArgumentError(
        absl::StrCat("pool ", uri.text, ": give 1 to ", kMaxConnections, " connections"));
  }
  const auto api = rdma::LoadApiWithDevice();
  if (!api.ok()) return Annotate(api.status(), absl::StrCat("pool ", uri.text));
  auto links = std::make_shared<Links>();
  for (const PoolNode& node : uri.nodes) links->emplace_back(node, key, options.connections);
  return std::make_shared<RdmaPool>(uri.text, key.tenant, std::move(links));
}

absl::StatusOr<rdma::TenantKey> KeyOf(const PoolUri& uri, const PoolAccess& access) {
  if (access.key_file.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("pool ", uri.text, ": asks for the tenant's key; name the file that has it"));
  }
  MOULT_ASSIGN_OR_RETURN(const auto keys, rdma::ReadKeyFile(access.key_file));
  auto key = rdma::FindKey(keys, access.tenant);
  if (key.ok()) return key;
  return Annotate(key.status(), absl::StrCat("pool ", uri.text, ": key file ", access.key_file));
}

absl::StatusOr<std::shared_ptr<TemplatePool>> OpenRdmaTemplates(const PoolUri& uri,
                                                                const PoolAccess& access) {
  MOULT_ASSIGN_OR_RETURN(const rdma::TenantKey key, KeyOf(uri, access));
  return OpenRdmaPool(uri, key);
}

}  // namespace moult::host
