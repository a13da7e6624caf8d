// SPDX-License-Identifier: Apache-2.0
//
// The kernel calls alone: a loop that answers each fault from a buffer, plain copies to and from a file, or to its mapping.
#ifndef MOULT_BENCH_PAGER_PEER_H_
#define MOULT_BENCH_PAGER_PEER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/types/span.h"
#include "moult/base/status.h"
#include "moult/base/unique_fd.h"

namespace moult::bench {

inline constexpr uint64_t kPageBytes = 4096;

// Memory on a memfd, as a guest's RAM is, or on another file.
class Ram {
 public:
  static absl::StatusOr<Ram> Create(uint64_t bytes);
  static absl::StatusOr<Ram> On(UniqueFd file, uint64_t bytes);
  Ram(Ram&& other) noexcept;
  ~Ram();
  std::byte* data() const { return data_; }
  std::byte* page(uint64_t i) const { return data_ + i * kPageBytes; }
  uint64_t pages() const { return bytes_ / kPageBytes; }
  int fd() const { return fd_.get(); }
  void Fill() const;           // no page alike
  absl::Status Empty() const;  // and free

 private:
  Ram(UniqueFd fd, std::byte* data, uint64_t bytes) : fd_(std::move(fd)), data_(data), bytes_(bytes) {}
  UniqueFd fd_;
  std::byte* data_;
  uint64_t bytes_;
};

// Runs `touch`, and answers the faults of `ram` (empty) meanwhile, each with its page of `content`.
absl::Status WithBareFaults(const Ram& ram, const std::byte* content, const std::function<void()>& touch);

// Seconds.
absl::StatusOr<double> CopyOut(const Ram& ram, absl::Span<const uint64_t> order, int file);
// One copy, to `file` (empty), whose pages come within that time, as the pool's do.
absl::StatusOr<double> CopyToMapping(const Ram& ram, absl::Span<const uint64_t> order, const Ram& file);
absl::StatusOr<double> CopyIn(const Ram& ram, absl::Span<const uint64_t> order, int file);

}  // namespace moult::bench

#endif  // MOULT_BENCH_PAGER_PEER_H_
