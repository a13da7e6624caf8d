// SPDX-License-Identifier: Apache-2.0
//
// Where templates lie that are not files of this host's own: fetched piece by piece, as they are touched. Each kind
// of pool has a folder beside this file.
#ifndef MOULT_HOST_POOL_TEMPLATE_POOL_H_
#define MOULT_HOST_POOL_TEMPLATE_POOL_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "pool/direct_pages.h"
#include "pool/file/store.h"
#include "pool/transfer_progress.h"

namespace moult::host {

using Clock = std::chrono::steady_clock;

// A part of a template's file `pages`: whole pages.
struct PoolPiece {
  uint64_t offset;
  absl::Span<std::byte> to;
};

// A template that lies in a pool. Nothing of it is checked: who opens it holds the manifest against the digest that it
// asked for, and pages against the manifest. Safe for several threads.
class RemoteTemplate {
 public:
  using Clock = std::chrono::steady_clock;

  virtual ~RemoteTemplate() = default;
  virtual const std::string& manifest_file() const = 0;
  virtual const std::string& image_file() const = 0;
  virtual uint64_t pages_size() const = 0;
  // All pieces, in one round trip where the pool can. kUnavailable: not now, and kDeadlineExceeded: try again;
  // kNotFound: it was removed; kPermissionDenied: no longer this tenant's to read; all else is for good.
  virtual absl::Status Read(absl::Span<const PoolPiece> pieces, Clock::time_point deadline) = 0;
  // Whether it has, beside its pages, the digests of them (image::PageDigest), one after another.
  virtual bool has_page_digests() const { return false; }
  // As Read, and in the same round trip pieces of those digests, by their place among them: whole ones.
  virtual absl::Status ReadWithDigests(absl::Span<const PoolPiece> pieces, absl::Span<const PoolPiece> digests,
                                       Clock::time_point deadline) {
    if (digests.empty()) return Read(pieces, deadline);
    return absl::UnimplementedError("the pool has no digests of single pages");
  }
  // As Read of one piece, for what can be had without waiting for a medium. False: it cannot.
  virtual bool ReadNow(const PoolPiece&) { return false; }
  // As PagePool's.
  virtual bool lends() const { return false; }
  // Not null: its pages can be mapped from where they lie.
  virtual std::shared_ptr<const DirectPages> direct() const { return nullptr; }
};

struct PoolEntry {
  std::string name;
  std::string digest;  // hex, of the manifest
  std::string tenant;
  uint64_t bytes = 0;  // of all three files
};

struct PoolUse {
  uint64_t used_bytes = 0;
  uint64_t limit_bytes = 0;
  uint64_t templates = 0;
  uint64_t held_bytes = 0;  // of used_bytes, what is of removed templates that are still in use
  std::string medium{};     // "devdax"; "": the kind of pool has but one
  uint64_t lent_bytes = 0;  // for offloaded pages of this tenant's VMs; beside used_bytes
  uint64_t lend_limit_bytes = 0;  // of all tenants together; 0: the pool lends none
};

// Safe for several threads. All calls block, until the deadline at most.
class TemplatePool {
 public:
  using Clock = RemoteTemplate::Clock;

  virtual ~TemplatePool() = default;
  // As it was given: "rdma://10.0.0.1:7471/".
  virtual const std::string& uri() const = 0;
  virtual absl::StatusOr<std::vector<PoolEntry>> List(Clock::time_point deadline) = 0;
  virtual absl::StatusOr<std::shared_ptr<RemoteTemplate>> Open(const std::string& name, Clock::time_point deadline) = 0;
  // kAlreadyExists; kResourceExhausted: no room. All or nothing. `progress` is told as pages are written, by the thread that
  // writes them; not once this has returned.
  virtual absl::Status Push(const Template& content, Clock::time_point deadline, const TransferProgress& progress) = 0;
  virtual absl::Status Remove(const std::string& name, Clock::time_point deadline) = 0;
  virtual absl::StatusOr<PoolUse> Use(Clock::time_point deadline) = 0;
};

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_TEMPLATE_POOL_H_
