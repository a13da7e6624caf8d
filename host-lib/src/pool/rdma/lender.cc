// SPDX-License-Identifier: Apache-2.0
#include "pool/rdma/lender.h"

#include "moult/base/status.h"

namespace moult::host::rdma {
namespace {

Region RegionOf(const Lent& loan) { return {loan.address, loan.key, {loan.bytes, 0, 0}}; }

}  // namespace

absl::StatusOr<Lent> NodeLender::Borrow(uint64_t bytes, Clock::time_point deadline) {
  for (bool again = true;; again = false) {
    MOULT_ASSIGN_OR_RETURN(Link::Lease lease, link_.Take(deadline));
    auto loan = lease->Ask<Lent>(rdma::Borrow{bytes}, deadline);
    if (loan.ok() && loan->bytes != bytes) {
      return absl::InternalError("the memory node lends another size than was asked for");
    }
    if (loan.ok()) lease->keeps = loan->token;
    if (loan.ok() || !again || lease.fresh() || lease->usable()) return loan;
  }
}

template <typename Move>
absl::Status NodeLender::OnLoan(const Lent& loan, Clock::time_point deadline, Move move) {
  absl::Status status;
  // Several connections may have ended unseen, but one that broke takes the idle ones with it (link.h).
  for (int attempts = 0; attempts < 3; ++attempts) {
    auto taken = link_.Take(deadline);
    // kNotFound is the node's word on the loan alone, not this host's on one of its own devices.
    if (absl::IsNotFound(taken.status())) return absl::UnavailableError(taken.status().message());
    if (!taken.ok()) return taken.status();
    Link::Lease lease = *std::move(taken);
    if (lease->keeps != loan.token) {
      MOULT_ASSIGN_OR_RETURN(const Lent same, lease->Ask<Lent>(Renew{loan.token}, deadline));
      if (same.address != loan.address || same.key != loan.key || same.bytes != loan.bytes) {
        return absl::InternalError("the memory node renews another loan than was asked for");
      }
      lease->keeps = loan.token;
    }
    status = move(lease, RegionOf(loan));
    if (status.ok() || absl::IsDeadlineExceeded(status) || lease->usable()) return status;
    // What is not allowed any more may be a loan that has ended: a new connection asks.
    if (lease.fresh() && !absl::IsPermissionDenied(status)) return status;
  }
  return status;
}

absl::Status NodeLender::Read(const Lent& loan, absl::Span<const PoolPiece> pieces, Clock::time_point deadline) {
  return OnLoan(loan, deadline,
                [&](Link::Lease& lease, const Region& region) { return lease->Read(region, pieces, deadline); });
}

absl::Status NodeLender::Write(const Lent& loan, absl::Span<const PoolPiece> pieces, Clock::time_point deadline) {
  return OnLoan(loan, deadline,
                [&](Link::Lease& lease, const Region& region) { return lease->Write(region, pieces, deadline); });
}

void NodeLender::GiveBack(const Lent& loan, Clock::time_point deadline) {
  std::optional<Link::Lease> lease = link_.TakeIdle();
  // Whether it succeeds says nothing to anybody: the node's grace period ends it then.
  if (lease) (void)(*lease)->Ask<Done>(rdma::GiveBack{loan.token}, deadline).status();
}

}  // namespace moult::host::rdma
