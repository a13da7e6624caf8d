// SPDX-License-Identifier: Apache-2.0
//
// What the pool is measured against: a queue pair of the same kind, and nothing but post and poll.
#ifndef MOULT_POOL_PROBE_RAW_H_
#define MOULT_POOL_PROBE_RAW_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "pool/rdma/connection.h"
#include "probe.h"

namespace moult::probe {

class Raw {
 public:
  static constexpr size_t kRead = 64 << 10;   // most bytes of each read, of which
  static constexpr uint32_t kUnderWay = 16;  // so many are under way

  // With the template's region at the first node of the target. Waits for completions by polling or by sleeping,
  // whichever does a read sooner here.
  static absl::StatusOr<Raw> Open(const Target& target, const std::string& name);

  // In reads of `step` bytes, up to the target's timeout. What was read last lies in memory(), one read's bytes in
  // each kRead.
  absl::Status Read(uint64_t offset, uint64_t size, size_t step);
  bool sleeps() const { return sleeps_; }
  uint64_t pages_bytes() const { return remote_.layout.pages; }
  absl::Span<std::byte> memory() const { return memory_.bytes(); }

 private:
  Raw() = default;
  absl::Status Sleep(host::rdma::Clock::time_point deadline);

  std::unique_ptr<host::rdma::Connection> connection_;
  host::rdma::Region remote_;
  std::chrono::milliseconds timeout_{0};
  bool sleeps_ = false;  // else it polls
  host::rdma::Clock::duration polled_{}, slept_{};
  host::rdma::Memory memory_;
  host::rdma::MemoryRegion region_;
};

}  // namespace moult::probe

#endif  // MOULT_POOL_PROBE_RAW_H_
