// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_POOLD_LOANS_H_
#define MOULT_POOLD_LOANS_H_

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "holding.h"
#include "pool/rdma/auth.h"
#include "pool/rdma/messages.h"
#include "pool/rdma/verbs.h"

namespace moult::poold {

// Memory that VMs keep pages in which are out. A loan is a tenant's: zeros at first, so nothing of another's, and
// reached on queue pairs of his protection domain alone. It ends when it is given back, or when for the grace period no
// connection kept it: one that it was made on, or renewed. Then its key is void before its memory goes. Safe for
// several threads; the lock is not held while memory is mapped, registered or freed.
class Loans {
 public:
  Loans(uint64_t limit, std::chrono::seconds grace) : budget_(limit), grace_(grace) {}

  absl::StatusOr<host::rdma::Lent> Borrow(const host::rdma::TenantKey* tenant, ibv_pd* domain, uint64_t bytes);
  // kNotFound: not there, or another tenant's. `keep`: by one connection more.
  absl::StatusOr<host::rdma::Lent> Renew(const host::rdma::TenantKey* tenant, ibv_pd* domain, const host::rdma::Token& token,
                                         bool keep);
  // One connection that kept it has ended. Nothing where the loan has.
  void Leave(const host::rdma::Token& token);
  absl::Status GiveBack(const host::rdma::TenantKey* tenant, const host::rdma::Token& token);
  uint64_t LentTo(const host::rdma::TenantKey* tenant);
  uint64_t limit() const { return budget_.limit(); }
  // Takes back what nobody kept for the grace period.
  void Sweep();

 private:
  struct Loan {
    const host::rdma::TenantKey* tenant;
    ibv_pd* domain;
    // In this order, so that they end in the other.
    Charge charge;
    host::rdma::Memory memory;
    host::rdma::MemoryRegion region;
    unsigned keepers = 1;
    host::rdma::Clock::time_point left_at{};  // where there are none
  };
  using Known = std::map<host::rdma::Token, std::unique_ptr<Loan>>;
  static host::rdma::Lent Tell(const Known::value_type& loan);
  // With the lock held; kNotFound.
  absl::StatusOr<Known::iterator> Find(const host::rdma::TenantKey* tenant, const host::rdma::Token& token);

  Budget budget_;
  const std::chrono::seconds grace_;
  std::mutex mutex_;  // guards the rest
  Known loans_;
};

}  // namespace moult::poold

#endif  // MOULT_POOLD_LOANS_H_
