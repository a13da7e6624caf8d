// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_POOLD_HOLDING_H_
#define MOULT_POOLD_HOLDING_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "pool/rdma/messages.h"
#include "pool/rdma/verbs.h"

namespace moult::poold {

// How much memory is given out, of how much. Safe for several threads.
class Budget {
 public:
  explicit Budget(uint64_t limit) : limit_(limit) {}
  bool Take(uint64_t size) {
    if (size <= limit_ && used_.fetch_add(size) <= limit_ - size) return true;
    if (size <= limit_) used_ -= size;
    return false;
  }
  void Give(uint64_t size) { used_ -= size; }
  uint64_t limit() const { return limit_; }

 private:
  const uint64_t limit_;
  std::atomic<uint64_t> used_ = 0;
};

// Memory for a template's three files, which counts against the budget as long as it lives.
class Holding {
 public:
  Holding() = default;
  static absl::StatusOr<Holding> Make(Budget* budget, const host::rdma::Layout& layout, const char* what) {
    const uint64_t size = layout.length();
    if (!budget->Take(size)) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the memory node is full: ", size, " bytes for ", what, " go beyond its limit of ", budget->limit(),
                       "; remove templates, or start moult-poold with a higher --limit-mib"));
    }
    Holding holding;
    holding.budget_ = budget;
    holding.size_ = size;
    holding.layout_ = layout;
    auto memory = host::rdma::Memory::Map(size, what);
    if (!memory.ok()) return memory.status();
    holding.memory_ = *std::move(memory);
    return holding;
  }
  Holding(Holding&& other) noexcept { *this = std::move(other); }
  Holding& operator=(Holding&& other) noexcept {
    std::swap(budget_, other.budget_);
    std::swap(size_, other.size_);
    std::swap(layout_, other.layout_);
    std::swap(memory_, other.memory_);
    return *this;
  }
  ~Holding() {
    if (budget_ != nullptr) budget_->Give(size_);
  }

  bool empty() const { return budget_ == nullptr; }
  absl::Span<std::byte> bytes() const { return memory_.bytes(); }
  absl::Span<std::byte> pages() const { return bytes().first(layout_.pages); }
  absl::Span<std::byte> image() const { return bytes().subspan(layout_.image_at(), layout_.image); }
  absl::Span<std::byte> manifest() const { return bytes().subspan(layout_.manifest_at(), layout_.manifest); }
  const host::rdma::Layout& layout() const { return layout_; }

 private:
  Budget* budget_ = nullptr;
  uint64_t size_ = 0;
  host::rdma::Layout layout_;
  host::rdma::Memory memory_;
};

}  // namespace moult::poold

#endif  // MOULT_POOLD_HOLDING_H_
