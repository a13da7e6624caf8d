// SPDX-License-Identifier: Apache-2.0
//
// Memory that a memory node lends (moult-poold --lend-mib), read and written one-sidedly.
#ifndef MOULT_HOST_POOL_RDMA_LENDER_H_
#define MOULT_HOST_POOL_RDMA_LENDER_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "pool/rdma/link.h"
#include "pool/rdma/messages.h"
#include "pool/template_pool.h"

namespace moult::host::rdma {

// Safe for several threads. Every call ends at its deadline, give or take a moment.
class Lender {
 public:
  virtual ~Lender() = default;

  virtual absl::StatusOr<Lent> Borrow(uint64_t bytes, Clock::time_point deadline) = 0;
  // `offset` of each piece is one in the loan; what Write is given it only reads. kNotFound: the node does not know
  // the loan any more, for good.
  virtual absl::Status Read(const Lent& loan, absl::Span<const PoolPiece> pieces, Clock::time_point deadline) = 0;
  virtual absl::Status Write(const Lent& loan, absl::Span<const PoolPiece> pieces, Clock::time_point deadline) = 0;
  // Where there is a connection; makes none. Without, the node takes it back after its grace period.
  virtual void GiveBack(const Lent& loan, Clock::time_point deadline) = 0;
};

class NodeLender final : public Lender {
 public:
  NodeLender(PoolNode node, TenantKey key, size_t connections) : link_(std::move(node), std::move(key), connections) {}

  absl::StatusOr<Lent> Borrow(uint64_t bytes, Clock::time_point deadline) override;
  absl::Status Read(const Lent& loan, absl::Span<const PoolPiece> pieces, Clock::time_point deadline) override;
  absl::Status Write(const Lent& loan, absl::Span<const PoolPiece> pieces, Clock::time_point deadline) override;
  void GiveBack(const Lent& loan, Clock::time_point deadline) override;

 private:
  // On a connection that keeps the loan, again where a kept connection had ended.
  template <typename Move>
  absl::Status OnLoan(const Lent& loan, Clock::time_point deadline, Move move);

  Link link_;
};

}  // namespace moult::host::rdma

#endif  // MOULT_HOST_POOL_RDMA_LENDER_H_
