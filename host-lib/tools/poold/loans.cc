// SPDX-License-Identifier: Apache-2.0
#include "loans.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"

namespace moult::poold {

using host::rdma::Clock;
using host::rdma::Lent;
using host::rdma::TenantKey;
using host::rdma::Token;

namespace {

constexpr ptrdiff_t kMostOfTenant = 256;  // each costs the device a region

Token RandomToken() {
  const host::rdma::Nonce random = host::rdma::RandomNonce();
  Token token;
  std::copy_n(random.begin(), token.size(), token.begin());
  return token;
}

}  // namespace

Lent Loans::Tell(const Known::value_type& loan) {
  return {loan.first, 0, loan.second->region->rkey, loan.second->memory.bytes().size()};
}

absl::StatusOr<Loans::Known::iterator> Loans::Find(const TenantKey* tenant, const Token& token) {
  const auto found = loans_.find(token);
  if (found != loans_.end() && found->second->tenant == tenant) return found;
  return absl::NotFoundError(absl::StrCat("there is no such loan: moult-poold was restarted, or had no connection of the "
                                          "borrower for ", grace_.count(), " s (--lend-grace-s)"));
}

absl::StatusOr<Lent> Loans::Borrow(const TenantKey* tenant, ibv_pd* domain, uint64_t bytes) {
  if (budget_.limit() == 0) {
    return absl::FailedPreconditionError("lends no memory for offloaded pages; start moult-poold with --lend-mib");
  }
  auto loan = std::make_unique<Loan>();
  loan->tenant = tenant;
  loan->domain = domain;
  loan->charge = Charge::Take(&budget_, bytes);
  if (loan->charge.empty()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot lend ", bytes, " bytes beside what is lent: its limit is ", budget_.limit(),
                     "; ask for less (--pool-mib), end other VMs, or start moult-poold with a higher --lend-mib"));
  }
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto his = std::count_if(loans_.begin(), loans_.end(),
                                   [&](const auto& each) { return each.second->tenant == tenant; });
    if (his >= kMostOfTenant) {
      return absl::ResourceExhaustedError(absl::StrCat("the tenant has ", his, " loans; end some of its VMs"));
    }
  }
  MOULT_ASSIGN_OR_RETURN(loan->memory, host::rdma::Memory::Map(bytes, "a loan"));
  constexpr int kAccess = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE;
  MOULT_ASSIGN_OR_RETURN(loan->region, host::rdma::Register(domain, loan->memory.bytes(), kAccess));
  const std::lock_guard<std::mutex> lock(mutex_);
  return Tell(*loans_.emplace(RandomToken(), std::move(loan)).first);
}

absl::StatusOr<Lent> Loans::Renew(const TenantKey* tenant, ibv_pd* domain, const Token& token, bool keep) {
  const std::lock_guard<std::mutex> lock(mutex_);
  MOULT_ASSIGN_OR_RETURN(const auto found, Find(tenant, token));
  if (found->second->domain != domain) {
    return absl::FailedPreconditionError(
        "the loan was made over another RDMA device of this node; connect to that one's address");
  }
  if (keep) ++found->second->keepers;
  return Tell(*found);
}

void Loans::Leave(const Token& token) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = loans_.find(token);
  if (found != loans_.end() && --found->second->keepers == 0) found->second->left_at = Clock::now();
}

absl::Status Loans::GiveBack(const TenantKey* tenant, const Token& token) {
  std::unique_ptr<Loan> ended;  // Without the lock.
  const std::lock_guard<std::mutex> lock(mutex_);
  MOULT_ASSIGN_OR_RETURN(const auto found, Find(tenant, token));
  ended = std::move(found->second);
  loans_.erase(found);
  return absl::OkStatus();
}

uint64_t Loans::LentTo(const TenantKey* tenant) {
  const std::lock_guard<std::mutex> lock(mutex_);
  uint64_t bytes = 0;
  for (const auto& [token, loan] : loans_) bytes += loan->tenant == tenant ? loan->memory.bytes().size() : 0;
  return bytes;
}

void Loans::Sweep() {
  std::vector<std::unique_ptr<Loan>> ended;  // Without the lock.
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto each = loans_.begin(); each != loans_.end();) {
    if (each->second->keepers == 0 && Clock::now() - each->second->left_at >= grace_) {
      ended.push_back(std::move(each->second));
      each = loans_.erase(each);
    } else {
      ++each;
    }
  }
}

}  // namespace moult::poold
