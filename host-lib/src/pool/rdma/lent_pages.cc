// SPDX-License-Identifier: Apache-2.0
#include "pool/rdma/lent_pages.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "memory/guest_memory.h"
#include "moult/base/status.h"
#include "pool/rdma/rdma_pool.h"

namespace moult::host {
namespace {

constexpr size_t kConnections = 4;
constexpr auto kGiveBackTime = std::chrono::seconds(1);

absl::Status CheckLoan(const PoolUri& uri, uint64_t limit) {
  if (uri.nodes.size() != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("pool ", uri.text, ": pages of guest RAM lie at one memory node; name one"));
  }
  if (limit >= kPage && limit <= rdma::kMostLent) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("pool ", uri.text, ": its memory is lent as a whole; say how much, a page to ",
                   rdma::kMostLent >> 20, " MiB (pool_bytes, pool_mib, --pool-mib)"));
}

}  // namespace

LentPages::LentPages(std::string name, uint64_t limit, std::unique_ptr<rdma::Lender> lender, const Options& options)
    : name_(std::move(name)), limit_(limit), options_(options), lender_(std::move(lender)), slots_(name_, limit) {}

LentPages::~LentPages() {
  if (loan_) lender_->GiveBack(loan_->memory, rdma::Clock::now() + kGiveBackTime);
}

absl::StatusOr<LentPages::Loan> LentPages::TakeLoan() {
  const auto known = [this]() -> std::optional<Loan> {
    const std::lock_guard<std::mutex> lock(mutex_);
    return loan_;
  };
  if (const auto loan = known()) return *loan;
  const std::lock_guard<std::mutex> borrowing(borrowing_);
  if (const auto loan = known()) return *loan;
  const auto time = options_.borrow_timeout + std::chrono::seconds(limit_ >> 30);
  MOULT_ASSIGN_OR_RETURN(const rdma::Lent memory, lender_->Borrow(limit_, rdma::Clock::now() + time));
  const std::lock_guard<std::mutex> lock(mutex_);
  loan_ = Loan{++loans_, memory};
  return *loan_;
}

void LentPages::Lose(const Loan& loan, const absl::Status& why) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!loan_ || loan_->number != loan.number) return;
  loan_.reset();
  lost_ = why;
}

absl::Status LentPages::Write(absl::Span<const std::byte> pages, absl::Span<PoolSlot> slots) {
  EndQuarantine();
  MOULT_ASSIGN_OR_RETURN(std::vector<SlotRun> runs, slots_.Take(pages, slots));
  const absl::Status status = WriteRuns(pages, runs);
  if (status.ok()) return status;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    quarantine_.emplace_back(rdma::Clock::now() + options_.quarantine, std::move(runs));
  }
  return Annotate(status, absl::StrCat("pool ", name_));
}

absl::Status LentPages::WriteRuns(absl::Span<const std::byte> pages, absl::Span<const SlotRun> runs) {
  std::vector<PoolPiece> pieces;
  // SAFETY: Write only reads from it; a piece has no other form.
  auto* from = const_cast<std::byte*>(pages.data());
  for (const SlotRun& run : runs) {
    pieces.push_back({run.first * kPage, {from, run.count * kPage}});
    from += run.count * kPage;
  }
  // Once more in a new loan where the node has forgotten the old one.
  for (bool again = true;; again = false) {
    MOULT_ASSIGN_OR_RETURN(const Loan loan, TakeLoan());
    const absl::Status status = lender_->Write(loan.memory, pieces, rdma::Clock::now() + options_.timeout);
    if (absl::IsNotFound(status)) {
      Lose(loan, status);
      if (again) continue;
    }
    if (!status.ok()) return status;
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const SlotRun& run : runs) {
      if (written_in_.size() < run.first + run.count) written_in_.resize(run.first + run.count);
      std::fill_n(written_in_.begin() + static_cast<ptrdiff_t>(run.first), run.count, loan.number);
    }
    return status;
  }
}

absl::Status LentPages::Read(absl::Span<const PoolSlot> slots, absl::Span<std::byte> pages) {
  const auto lost = [this](const absl::Status& why) {
    return absl::DataLossError(absl::StrCat("pool ", name_, ": what was written is lost: ", why.message()));
  };
  std::vector<SlotRun> runs;
  std::optional<Loan> loan;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    loan = loan_;
    for (const PoolSlot each : slots) {
      const auto slot = static_cast<uint64_t>(each);
      if (!loan || written_in_[slot] != loan->number) return lost(lost_);
      Append(&runs, slot);
    }
  }
  if (slots.empty()) return absl::OkStatus();
  std::vector<PoolPiece> pieces;
  std::byte* to = pages.data();
  for (const SlotRun& run : runs) {
    pieces.push_back({run.first * kPage, {to, run.count * kPage}});
    to += run.count * kPage;
  }
  const absl::Status status = lender_->Read(loan->memory, pieces, rdma::Clock::now() + options_.timeout);
  if (absl::IsNotFound(status)) {
    Lose(*loan, status);
    return lost(status);
  }
  if (!status.ok()) return Annotate(status, absl::StrCat("pool ", name_));
  return slots_.Check(slots, pages);
}

void LentPages::Free(absl::Span<const PoolSlot> slots) {
  std::vector<SlotRun> runs;
  for (const PoolSlot slot : slots) Append(&runs, static_cast<uint64_t>(slot));
  slots_.Give(runs);
}

void LentPages::EndQuarantine() {
  const std::lock_guard<std::mutex> lock(mutex_);
  while (!quarantine_.empty() && quarantine_.front().first <= rdma::Clock::now()) {
    slots_.Give(quarantine_.front().second);
    quarantine_.pop_front();
  }
}

uint64_t LentPages::used_bytes() const { return slots_.used() * kPage; }

absl::StatusOr<std::shared_ptr<PagePool>> OpenLentPages(const PoolUri& uri, const rdma::TenantKey& key, uint64_t limit,
                                                        const LentPages::Options& options) {
  MOULT_RETURN_IF_ERROR(CheckLoan(uri, limit));
  const auto api = rdma::LoadApiWithDevice();
  if (!api.ok()) return Annotate(api.status(), absl::StrCat("pool ", uri.text));
  return std::make_shared<LentPages>(uri.text, limit / kPage * kPage,
                                     std::make_unique<rdma::NodeLender>(uri.nodes[0], key, kConnections), options);
}

absl::StatusOr<std::shared_ptr<PagePool>> OpenLentPages(const PoolUri& uri, const PoolAccess& access, uint64_t limit) {
  MOULT_RETURN_IF_ERROR(CheckLoan(uri, limit));  // Before the key: what is asked for is wrong, whoever asks.
  MOULT_ASSIGN_OR_RETURN(const rdma::TenantKey key, KeyOf(uri, access));
  return OpenLentPages(uri, key, limit);
}

}  // namespace moult::host
