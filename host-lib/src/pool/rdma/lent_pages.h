// SPDX-License-Identifier: Apache-2.0
//
// The `rdma:` pool's pages of guest RAM that are out: in memory that a memory node lends to this VM, written by RDMA
// WRITE and read by RDMA READ, which costs that node's CPU nothing.
#ifndef MOULT_HOST_POOL_RDMA_LENT_PAGES_H_
#define MOULT_HOST_POOL_RDMA_LENT_PAGES_H_

#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "pool/checked_slots.h"
#include "pool/page_pool.h"
#include "pool/rdma/lender.h"
#include "pool/uri.h"

namespace moult::host {

// One loan of `limit` bytes, made by the first Write, given back with this object, which takes up to a second. Each
// page's checksum stays here, so that a byte that has changed there is kDataLoss, whatever changed it but who means to
// (checked_slots.h). When the node has forgotten the loan (it was restarted, or no connection was there for its grace
// period), what was written is lost: Read says kDataLoss, with why, and the next Write makes a new loan.
class LentPages final : public PagePool {
 public:
  struct Options {
    std::chrono::milliseconds timeout{5000};         // of each Read and Write
    // Of the loan, and a second more for each GiB: all of it is zeroed and locked there.
    std::chrono::milliseconds borrow_timeout{30000};
    // Slots of a Write that failed are not used for so long: its last packets may still be on their way.
    std::chrono::milliseconds quarantine{10000};
  };

  LentPages(std::string name, uint64_t limit, std::unique_ptr<rdma::Lender> lender, const Options& options);
  LentPages(const LentPages&) = delete;
  LentPages& operator=(const LentPages&) = delete;
  ~LentPages() override;

  absl::Status Write(absl::Span<const std::byte> pages, absl::Span<PoolSlot> slots) override;
  absl::Status Read(absl::Span<const PoolSlot> slots, absl::Span<std::byte> pages) override;
  void Free(absl::Span<const PoolSlot> slots) override;

  uint64_t used_bytes() const override;
  uint64_t limit_bytes() const override { return limit_; }
  const std::string& name() const override { return name_; }

 private:
  struct Loan {
    uint32_t number;
    rdma::Lent memory;
  };
  absl::StatusOr<Loan> TakeLoan();
  // Of the pages written in it. Another thread may have found out before.
  void Lose(const Loan& loan, const absl::Status& why);
  absl::Status WriteRuns(absl::Span<const std::byte> pages, absl::Span<const SlotRun> runs);
  void EndQuarantine();

  const std::string name_;
  const uint64_t limit_;
  const Options options_;
  const std::unique_ptr<rdma::Lender> lender_;
  CheckedSlots slots_;
  std::mutex borrowing_;  // held over the network, by who writes while there is no loan
  mutable std::mutex mutex_;  // guards the rest; never held over the network
  std::optional<Loan> loan_;
  uint32_t loans_ = 0;
  std::vector<uint32_t> written_in_;  // by slot: the loan's number
  absl::Status lost_;                 // why the last loan that ended did
  std::deque<std::pair<rdma::Clock::time_point, std::vector<SlotRun>>> quarantine_;
};

// At one node. `limit` is in bytes, and what it lends. Talks to nobody yet. kInvalidArgument; kFailedPrecondition: no
// RDMA device, or no rdma-core, with what to do.
absl::StatusOr<std::shared_ptr<PagePool>> OpenLentPages(const PoolUri& uri, const rdma::TenantKey& key, uint64_t limit,
                                                        const LentPages::Options& options = {});
// With the key of `access` (KeyOf in rdma_pool.h).
absl::StatusOr<std::shared_ptr<PagePool>> OpenLentPages(const PoolUri& uri, const PoolAccess& access, uint64_t limit);

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_RDMA_LENT_PAGES_H_
