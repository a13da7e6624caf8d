// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_POOLD_HOLDING_H_
#define MOULT_POOLD_HOLDING_H_

#include <sys/mman.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "moult/base/page.h"
#include "moult/base/status.h"
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

// A part of a budget, for as long as it lives.
class Charge {
 public:
  Charge() = default;
  // Empty: there is not so much.
  static Charge Take(Budget* budget, uint64_t size) {
    Charge charge;
    if (!budget->Take(size)) return charge;
    charge.budget_ = budget;
    charge.size_ = size;
    return charge;
  }
  Charge(Charge&& other) noexcept { *this = std::move(other); }
  Charge& operator=(Charge&& other) noexcept {
    std::swap(budget_, other.budget_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Charge() {
    if (budget_ != nullptr) budget_->Give(size_);
  }
  bool empty() const { return budget_ == nullptr; }

 private:
  Budget* budget_ = nullptr;
  uint64_t size_ = 0;
};

// Memory for a template's three files and the digests of its pages, which counts against the budget as long as it lives.
class Holding {
 public:
  Holding() = default;
  // The first `shown` bytes do not count: the caller maps something over them. The memory begins at a multiple of `align`,
  // a power of two of pages.
  static absl::StatusOr<Holding> Make(Budget* budget, const host::rdma::Layout& layout, const char* what, uint64_t shown = 0,
                                      uint64_t align = kPage) {
    const uint64_t size = layout.length() - shown;
    Holding holding;
    holding.charge_ = Charge::Take(budget, size);
    if (holding.charge_.empty()) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the memory node is full: ", size, " bytes for ", what, " go beyond its limit of ", budget->limit(),
                       "; remove templates, or start moult-poold with a higher --limit-mib"));
    }
    holding.layout_ = layout;
    holding.copied_ = shown == 0;
    MOULT_ASSIGN_OR_RETURN(holding.memory_, host::rdma::Memory::Map(layout.length() + align - kPage, what));
    // SAFETY: as a number alone.
    const auto at = reinterpret_cast<uintptr_t>(holding.memory_.bytes().data());
    holding.bytes_ = holding.memory_.bytes().subspan(AlignUp(at, align) - at, layout.length());
    return holding;
  }

  bool empty() const { return charge_.empty(); }
  // All of it is memory of our own.
  bool copied() const { return copied_; }
  absl::Span<std::byte> bytes() const { return bytes_; }
  // Of what is shown and not copied: no mistake of ours is to change it. Only then can it be registered before Linux 6.2.
  void AllowWrites(bool allow) const {
    if (!copied_) mprotect(bytes_.data(), bytes_.size(), allow ? PROT_READ | PROT_WRITE : PROT_READ);
  }
  absl::Span<std::byte> pages() const { return bytes().first(layout_.pages); }
  absl::Span<std::byte> image() const { return bytes().subspan(layout_.image_at(), layout_.image); }
  absl::Span<std::byte> manifest() const { return bytes().subspan(layout_.manifest_at(), layout_.manifest); }
  absl::Span<std::byte> digests() const { return bytes().subspan(layout_.digests_at(), layout_.digests()); }
  const host::rdma::Layout& layout() const { return layout_; }

 private:
  Charge charge_;
  host::rdma::Layout layout_;
  bool copied_ = true;
  host::rdma::Memory memory_;
  absl::Span<std::byte> bytes_;  // of it
};

}  // namespace moult::poold

#endif  // MOULT_POOLD_HOLDING_H_
