// SPDX-License-Identifier: Apache-2.0
//
// Objects of rdma-core that end with their owner, and one queue pair's completions. For client and memory node alike.
#ifndef MOULT_HOST_POOL_RDMA_VERBS_H_
#define MOULT_HOST_POOL_RDMA_VERBS_H_

#include <sys/mman.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "pool/rdma/api.h"
#include "pool/rdma/messages.h"

namespace moult::host::rdma {

using Clock = std::chrono::steady_clock;

// For poll(2): rounded up, 0 when it has passed.
int MillisecondsTo(Clock::time_point deadline);

template <auto kDestroy>
struct Destroy {
  // Whatever is owned was made by an Api, so there is one.
  template <typename T>
  void operator()(T* object) const { ((*LoadApi())->*kDestroy)(object); }
};
using EventChannel = std::unique_ptr<rdma_event_channel, Destroy<&Api::destroy_event_channel>>;
using CmId = std::unique_ptr<rdma_cm_id, Destroy<&Api::destroy_id>>;
using ProtectionDomain = std::unique_ptr<ibv_pd, Destroy<&Api::dealloc_pd>>;
using MemoryRegion = std::unique_ptr<ibv_mr, Destroy<&Api::dereg_mr>>;
using CompletionChannel = std::unique_ptr<ibv_comp_channel, Destroy<&Api::destroy_comp_channel>>;
using CompletionQueue = std::unique_ptr<ibv_cq, Destroy<&Api::destroy_cq>>;
using QueuePair = std::unique_ptr<ibv_qp, Destroy<&Api::destroy_qp>>;

// Anonymous memory, which a device can be given without copying or pinning any file's pages.
class Memory {
 public:
  Memory() = default;
  static absl::StatusOr<Memory> Map(size_t size, const char* what);
  Memory(Memory&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  Memory& operator=(Memory&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Memory();
  absl::Span<std::byte> bytes() const { return bytes_; }

 private:
  absl::Span<std::byte> bytes_;
};

// Addresses on the wire count from 0. With on-demand paging where the device can read (and write) so, else pinned. kResourceExhausted:
// the limit of locked memory.
absl::StatusOr<MemoryRegion> Register(ibv_pd* domain, absl::Span<std::byte> bytes, int access);
// The same with the memory's own addresses, for work requests of this side.
absl::StatusOr<MemoryRegion> RegisterLocal(ibv_pd* domain, absl::Span<std::byte> bytes);

// What completes on one queue pair, and messages through it. One thread at a time; destroyed after the queue pair.
class Queue {
 public:
  static constexpr unsigned kMaxWork = 32;  // work requests besides messages

  static absl::StatusOr<std::unique_ptr<Queue>> Create(ibv_context* device, ibv_pd* domain);
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;
  ~Queue();

  // To make the queue pair with.
  ibv_qp_init_attr attributes() const;
  // Receives are posted: before the other side can send.
  absl::Status Attach(ibv_qp* queue_pair);
  ibv_qp* queue_pair() const { return queue_pair_; }

  // Returns when it is on its way. The other side has to take the one before first, until the deadline.
  absl::Status Send(std::string_view message, Clock::time_point deadline);
  // Returns when the other side has it.
  absl::Status Flush(Clock::time_point deadline);
  // kCancelled: `stop` (-1: none) is readable.
  absl::StatusOr<std::string> Receive(Clock::time_point deadline, int stop = -1);

  // Whether the other side is still there: nothing is moved. An error: it is not.
  absl::Status Probe(Clock::time_point deadline);

  // A one-sided operation between local memory and the other side's; `id` below kMaxWork comes back from Completion.
  absl::Status Post(ibv_wr_opcode operation, uint32_t id, absl::Span<std::byte> local, uint32_t local_key,
                    uint64_t remote, uint32_t remote_key);
  struct Done {
    uint32_t id = 0;
    ibv_wc_status status = IBV_WC_SUCCESS;
  };
  // Of Post's operations, whatever became of it.
  absl::StatusOr<Done> Completion(Clock::time_point deadline, int stop = -1);

 private:
  static constexpr unsigned kReceives = 4;
  explicit Queue(const Api* api) : api_(api) {}
  absl::Status PostWork(ibv_send_wr work);
  // Takes in one completion.
  absl::Status Pump(Clock::time_point deadline, int stop = -1);
  absl::StatusOr<ibv_wc> Next(Clock::time_point deadline, int stop);
  absl::Status Sleep(Clock::time_point deadline, int stop);
  absl::Status PostReceive(unsigned slot);
  absl::Span<std::byte> Slot(unsigned slot) const;

  const Api* const api_;
  Memory buffer_;  // kReceives messages, and one to send
  MemoryRegion buffer_region_;
  CompletionChannel channel_;
  CompletionQueue completions_;
  ibv_qp* queue_pair_ = nullptr;
  unsigned events_ = 0;
  bool sending_ = false;
  std::deque<std::string> received_;
  std::deque<Done> done_;
  absl::Status broken_;
};

}  // namespace moult::host::rdma

#endif  // MOULT_HOST_POOL_RDMA_VERBS_H_
