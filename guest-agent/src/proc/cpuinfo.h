// SPDX-License-Identifier: Apache-2.0
//
// /proc/cpuinfo: the first processor.
#ifndef MOULT_PROC_CPUINFO_H_
#define MOULT_PROC_CPUINFO_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace moult::proc {

struct CpuInfo {
  std::string vendor_id;
  std::string model_name;
  int family = 0;
  int model = 0;
  int stepping = 0;
  std::vector<std::string> flags;  // in the kernel's order

  bool Has(std::string_view flag) const;
};

absl::StatusOr<CpuInfo> ParseCpuInfo(std::string_view text);

}  // namespace moult::proc

#endif  // MOULT_PROC_CPUINFO_H_
