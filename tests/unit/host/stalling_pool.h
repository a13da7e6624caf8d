// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_TESTS_UNIT_HOST_STALLING_POOL_H_
#define MOULT_TESTS_UNIT_HOST_STALLING_POOL_H_

#include <atomic>
#include <memory>
#include <thread>
#include <utility>

#include "passing_pool.h"

namespace moult::host::testing {

// No read ends before Open().
class StallingPool : public PassingPool {
 public:
  explicit StallingPool(std::shared_ptr<PagePool> pool) : PassingPool(std::move(pool)) {}
  void Open() { closed_ = false; }
  bool has_reader() const { return readers_ > 0; }
  void AwaitReader() const {
    while (!has_reader()) std::this_thread::yield();
  }

  absl::Status Read(absl::Span<const PoolSlot> slots, absl::Span<std::byte> pages) override {
    ++readers_;
    while (closed_) std::this_thread::yield();
    return PassingPool::Read(slots, pages);
  }

 private:
  std::atomic<bool> closed_{true};
  std::atomic<int> readers_{0};
};

}  // namespace moult::host::testing

#endif  // MOULT_TESTS_UNIT_HOST_STALLING_POOL_H_
