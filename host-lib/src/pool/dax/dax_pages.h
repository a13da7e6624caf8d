// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_HOST_POOL_DAX_DAX_PAGES_H_
#define MOULT_HOST_POOL_DAX_DAX_PAGES_H_

#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "pool/dax/device.h"
#include "pool/dax/layout.h"
#include "pool/direct_pages.h"

namespace moult::host {

// Which templates this process has held against their digests. Safe for several threads.
class DaxChecked {
 public:
  bool Has(const std::string& identity) const;
  void Add(const std::string& identity);

 private:
  mutable std::mutex mutex_;
  std::set<std::string> identities_;
};

// One template, by a device of its own that holds its blocks: every mapping that is made from it keeps the
// device's file open, and so the hold. See locks.h.
class DaxPages final : public DirectPages {
 public:
  static absl::StatusOr<std::shared_ptr<DaxPages>> Open(std::unique_ptr<DaxDevice> device,
                                                        const DaxGeometry& geometry, DaxEntry entry,
                                                        std::shared_ptr<DaxChecked> checked);
  ~DaxPages() override;
  DaxPages(const DaxPages&) = delete;
  DaxPages& operator=(const DaxPages&) = delete;

  // The first `length` bytes over what is the caller's, both a multiple of align(): the device's own pages, which can be
  // written to. It must have been opened for that.
  absl::Status MapShared(std::byte* at, uint64_t length) const;
  uint64_t align() const { return geometry_.align; }
  // Its files, in the device.
  std::string manifest_file() const;
  std::string image_file() const;

  uint64_t size() const override { return entry_.pages_size; }
  const std::string& identity() const override { return identity_; }
  absl::Status MapOver(std::byte* at, uint64_t room) const override;
  bool writable() const override { return device_->kind() != DaxKind::kDevdax; }
  absl::Status Verify(const image::PageLeaves& leaves, Clock::time_point deadline) const override;
  absl::Status Read(uint64_t offset, absl::Span<std::byte> to) const override;

 private:
  DaxPages(std::unique_ptr<DaxDevice> device, const DaxGeometry& geometry, DaxEntry entry,
           std::shared_ptr<DaxChecked> checked);
  absl::Status MapView();
  // Maps the first `length` bytes of the template's blocks, one behind the other.
  absl::Status MapBlocks(std::byte* at, uint64_t length, int access, int flags) const;
  std::string where() const;

  const std::unique_ptr<DaxDevice> device_;
  const DaxGeometry geometry_;
  const DaxEntry entry_;
  const std::shared_ptr<DaxChecked> checked_;
  const std::string identity_;  // volume and id
  // All blocks, read-only.
  std::byte* reserved_ = nullptr;
  uint64_t reserved_bytes_ = 0;
  std::byte* view_ = nullptr;  // within the reserved addresses
};

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_DAX_DAX_PAGES_H_
