// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_POOLD_SERVER_H_
#define MOULT_POOLD_SERVER_H_

#include <chrono>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "domains.h"
#include "exports.h"
#include "loans.h"
#include "moult/base/unique_fd.h"
#include "pool/uri.h"
#include "session.h"

namespace moult::poold {

struct Limits {
  uint64_t templates = 0;  // bytes in memory, and in a folder
  uint64_t lent = 0;       // bytes; 0: none
  std::chrono::seconds grace{};  // of a loan without a connection
};

// Listens, and keeps the sessions. One thread.
class Server {
 public:
  static absl::StatusOr<std::unique_ptr<Server>> Listen(const host::PoolNode& address, std::vector<host::rdma::TenantKey> keys,
                                                        std::unique_ptr<Backing> backing, const Limits& limits);
  // Until `stop` is readable.
  absl::Status Run(int stop);

 private:
  Server(const host::rdma::Api* api, std::vector<host::rdma::TenantKey> keys, std::unique_ptr<Backing> backing, const Limits& limits)
      : api_(api), domains_(std::move(keys)), exports_(std::move(backing), limits.templates), loans_(limits.lent, limits.grace) {}
  absl::Status Bind(const host::PoolNode& address);
  void TakeEvent();
  void TakeRequest(host::rdma::CmId id, std::string introduction, uint8_t reads);
  absl::StatusOr<std::unique_ptr<Session>> Admit(host::rdma::CmId* id, const std::string& introduction, uint8_t reads);
  bool Full(const host::rdma::TenantKey* tenant) const;
  void Reap();

  const host::rdma::Api* const api_;
  UniqueFd ended_;  // a session has
  host::rdma::EventChannel events_;
  Domains domains_;
  Exports exports_;
  Loans loans_;
  host::rdma::CmId listener_;
  std::list<std::unique_ptr<Session>> sessions_;
};

}  // namespace moult::poold

#endif  // MOULT_POOLD_SERVER_H_
