// SPDX-License-Identifier: Apache-2.0
//
// A pool whose medium may stop to answer, and whose callers must not wait for it without an end: what may
// block is done by threads that serve faults, and who wants it waits for so long at most.
#ifndef MOULT_HOST_POOL_BOUNDED_POOL_H_
#define MOULT_HOST_POOL_BOUNDED_POOL_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "pool/page_pool.h"
#include "serving/serving_threads.h"

namespace moult::host {

// A read that is not over in time goes on. Who asks for pages of it again waits no longer for it, and gets
// them once they are there: so a slow medium gives all, in as many tries as it takes. A write that is not over
// in time has failed; its slots are nobody's until it has ended.
class BoundedPool final : public PagePool {
 public:
  struct Limits {
    std::chrono::milliseconds read{100};  // so long a fault of another page may wait for the thread
    std::chrono::milliseconds write{10'000};
  };
  BoundedPool(std::shared_ptr<PagePool> pool, std::shared_ptr<ServingThreads> threads, Limits limits);

  // kUnavailable: the pool does not answer in time, or there are too few threads.
  absl::Status Write(absl::Span<const std::byte> pages, absl::Span<PoolSlot> slots) override;
  std::unique_ptr<Writing> BeginWrite(std::shared_ptr<PageBuffer> pages, size_t count) override;
  absl::Status Read(absl::Span<const PoolSlot> slots, absl::Span<std::byte> pages) override;
  void Free(absl::Span<const PoolSlot> slots) override;
  uint64_t used_bytes() const override;
  uint64_t limit_bytes() const override { return pool_->limit_bytes(); }
  const std::string& name() const override { return pool_->name(); }
  bool lends() const override { return true; }

 private:
  static constexpr PoolSlot kNone = PoolSlot(UINT64_MAX);
  class ReadJob;
  class WriteJob;
  class FreeJob;
  class Begun;
  struct Late {
    std::shared_ptr<const ReadJob> job;
    std::vector<PoolSlot> kept;  // its slots, those that were freed since as kNone
    std::chrono::steady_clock::time_point begun;
  };

  ServingThreads::Call ReadCall() const { return {who_, "read", limits_.read}; }
  ServingThreads::Call WriteCall() const { return {who_, "write", limits_.write}; }
  bool TakeLate(absl::Span<const PoolSlot> slots, absl::Span<std::byte> pages, absl::Status* result);

  const std::shared_ptr<PagePool> pool_;
  const std::shared_ptr<ServingThreads> threads_;
  const Limits limits_;
  const std::string who_;
  // Slots that were written and not freed; of these, what is being given back, which may take its time, only where its thread
  // has died. Jobs have it as well.
  const std::shared_ptr<std::atomic<uint64_t>> used_ = std::make_shared<std::atomic<uint64_t>>(0);
  std::mutex mutex_;  // guards late_
  std::list<Late> late_;
};

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_BOUNDED_POOL_H_
