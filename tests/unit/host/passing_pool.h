// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_TESTS_UNIT_HOST_PASSING_POOL_H_
#define MOULT_TESTS_UNIT_HOST_PASSING_POOL_H_

#include <memory>
#include <string>
#include <utility>

#include "pool/page_pool.h"

namespace moult::host::testing {

// Hands all on to another pool; what is built on it does so too late, or not at all. Nothing of it is there without waiting.
class PassingPool : public PagePool {
 public:
  absl::Status Write(absl::Span<const std::byte> pages, absl::Span<PoolSlot> slots) override { return pool_->Write(pages, slots); }
  absl::Status Read(absl::Span<const PoolSlot> slots, absl::Span<std::byte> pages) override { return pool_->Read(slots, pages); }
  void Free(absl::Span<const PoolSlot> slots) override { pool_->Free(slots); }
  uint64_t used_bytes() const override { return pool_->used_bytes(); }
  uint64_t limit_bytes() const override { return pool_->limit_bytes(); }
  const std::string& name() const override { return pool_->name(); }

 protected:
  explicit PassingPool(std::shared_ptr<PagePool> pool) : pool_(std::move(pool)) {}

 private:
  const std::shared_ptr<PagePool> pool_;
};

}  // namespace moult::host::testing

#endif  // MOULT_TESTS_UNIT_HOST_PASSING_POOL_H_
