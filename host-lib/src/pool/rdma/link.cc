// SPDX-License-Identifier: Apache-2.0
#include "pool/rdma/link.h"

namespace moult::host::rdma {

std::unique_ptr<Connection> Link::Idle(std::vector<std::unique_ptr<Connection>>* ended) {
  while (!idle_.empty()) {
    std::unique_ptr<Connection> connection = std::move(idle_.back());
    idle_.pop_back();
    if (connection->usable()) return connection;
    --made_;
    ended->push_back(std::move(connection));
  }
  return nullptr;
}

std::optional<Link::Lease> Link::TakeIdle() {
  std::vector<std::unique_ptr<Connection>> ended;  // Destroyed without the lock.
  const std::lock_guard<std::mutex> lock(mutex_);
  auto connection = Idle(&ended);
  if (connection == nullptr) return std::nullopt;
  return Lease(this, std::move(connection), /*fresh=*/false);
}

absl::StatusOr<Link::Lease> Link::Take(Clock::time_point deadline) {
  std::vector<std::unique_ptr<Connection>> ended;  // Destroyed without the lock.
  {
    std::unique_lock<std::mutex> lock(mutex_);
    if (!returned_.wait_until(lock, deadline, [&] { return !idle_.empty() || made_ < limit_; })) {
      return absl::DeadlineExceededError(absl::StrCat("memory node ", node_.text(), ": all ", limit_, " connections are in use"));
    }
    if (auto connection = Idle(&ended)) return Lease(this, std::move(connection), /*fresh=*/false);
    ++made_;
  }
  auto connection = Connection::Open(node_, key_, deadline);
  if (!connection.ok()) {
    const std::lock_guard<std::mutex> lock(mutex_);
    --made_;
    returned_.notify_one();
    return connection.status();
  }
  return Lease(this, *std::move(connection), /*fresh=*/true);
}

void Link::Return(std::unique_ptr<Connection> connection) {
  std::vector<std::unique_ptr<Connection>> ended;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (connection->usable()) {
      idle_.push_back(std::move(connection));
    } else {
      ended.swap(idle_);
      ended.push_back(std::move(connection));
      made_ -= ended.size();
    }
  }
  returned_.notify_all();
}

}  // namespace moult::host::rdma
