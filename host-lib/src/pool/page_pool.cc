// SPDX-License-Identifier: Apache-2.0
#include "pool/page_pool.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "moult/base/status.h"

namespace moult::host {
namespace {

// Of a pool that writes at once.
class Written final : public PagePool::Writing {
 public:
  Written(PagePool* pool, absl::Span<const std::byte> pages, size_t count)
      : slots_(count), status_(pool->Write(pages, absl::MakeSpan(slots_))) {}
  absl::Status Await(absl::Span<PoolSlot> slots) override {
    MOULT_RETURN_IF_ERROR(status_);
    std::copy(slots_.begin(), slots_.end(), slots.begin());
    return absl::OkStatus();
  }

 private:
  std::vector<PoolSlot> slots_;
  const absl::Status status_;
};

}  // namespace

std::unique_ptr<PagePool::Writing> PagePool::BeginWrite(std::shared_ptr<PageBuffer> pages, size_t count) {
  return std::make_unique<Written>(this, pages->first(count), count);
}

}  // namespace moult::host
