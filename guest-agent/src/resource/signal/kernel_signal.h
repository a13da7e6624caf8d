// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_RESOURCE_SIGNAL_KERNEL_SIGNAL_H_
#define MOULT_RESOURCE_SIGNAL_KERNEL_SIGNAL_H_

#include <cstddef>
#include <cstdint>

namespace moult::engine {

// The kernel's struct sigaction on x86-64; glibc's differs.
struct KernelSigaction {
  uint64_t handler;
  uint64_t flags;
  uint64_t restorer;
  uint64_t mask;
};

inline constexpr int kSignalCount = 64;
inline constexpr size_t kSigsetSize = 8;
inline constexpr size_t kSiginfoSize = 128;

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_SIGNAL_KERNEL_SIGNAL_H_
