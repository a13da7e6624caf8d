// SPDX-License-Identifier: Apache-2.0
//
// /proc/iomem: where the guest's RAM is.
#ifndef MOULT_RPC_IOMEM_H_
#define MOULT_RPC_IOMEM_H_

#include <cstdint>
#include <string_view>
#include <vector>

namespace moult::agent {

struct RamRange {
  uint64_t start;
  uint64_t end;  // first address behind it
  bool operator==(const RamRange&) const = default;
};

// The top-level "System RAM" ranges, rising. Empty without CAP_SYS_ADMIN (all addresses read as 0).
std::vector<RamRange> ParseSystemRam(std::string_view iomem);
std::vector<RamRange> ReadSystemRam();
// Within these: the kernel's text and data, rising.
std::vector<RamRange> ParseKernelImage(std::string_view iomem);
// Their sum.
uint64_t RamBytes();

}  // namespace moult::agent

#endif  // MOULT_RPC_IOMEM_H_
