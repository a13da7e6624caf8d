// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_HOST_POOL_RDMA_LINK_H_
#define MOULT_HOST_POOL_RDMA_LINK_H_

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "pool/rdma/connection.h"
#include "pool/uri.h"

namespace moult::host::rdma {

// The connections with one memory node, made when they are needed: each serves one caller at a time. Safe for several
// threads; the lock is never held over the network.
class Link {
 public:
  Link(PoolNode node, TenantKey key, size_t limit) : node_(std::move(node)), key_(std::move(key)), limit_(limit) {}
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  class Lease {
   public:
    Lease(Link* link, std::unique_ptr<Connection> connection, bool fresh)
        : link_(link), connection_(std::move(connection)), fresh_(fresh) {}
    Lease(Lease&& other) noexcept = default;
    Lease& operator=(Lease&&) = delete;
    ~Lease() {
      if (connection_ != nullptr) link_->Return(std::move(connection_));
    }
    Connection* operator->() const { return connection_.get(); }
    // Made for this caller: an error is none of an old connection's.
    bool fresh() const { return fresh_; }

   private:
    Link* link_;
    std::unique_ptr<Connection> connection_;
    const bool fresh_;
  };

  // Waits where all are taken. Errors are Connection::Open's, and kDeadlineExceeded.
  absl::StatusOr<Lease> Take(Clock::time_point deadline);
  // One that is there and well; neither waits nor connects.
  std::optional<Lease> TakeIdle();
  const PoolNode& node() const { return node_; }

 private:
  // The lock is held. Those that have ended are put aside, to be destroyed without it.
  std::unique_ptr<Connection> Idle(std::vector<std::unique_ptr<Connection>>* ended);
  // One that broke takes the idle ones with it: they go to the same node, and to find each out would take its time.
  void Return(std::unique_ptr<Connection> connection);

  const PoolNode node_;
  const TenantKey key_;
  const size_t limit_;
  std::mutex mutex_;  // guards the rest
  std::condition_variable returned_;
  std::vector<std::unique_ptr<Connection>> idle_;
  size_t made_ = 0;
};

}  // namespace moult::host::rdma

#endif  // MOULT_HOST_POOL_RDMA_LINK_H_
