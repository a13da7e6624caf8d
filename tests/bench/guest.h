// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_BENCH_GUEST_H_
#define MOULT_BENCH_GUEST_H_

#include <sys/types.h>

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "moult/base/status.h"

namespace moult::bench {

// One VM, asked through moultctl. One that we booted ends with this.
class Guest {
 public:
  // `bin`: folder of moultctl. `control`: of a VM that is there; empty: Boot makes one.
  Guest(std::string bin, std::string control) : bin_(std::move(bin)), control_(std::move(control)) {}
  ~Guest();
  Guest(const Guest&) = delete;
  Guest& operator=(const Guest&) = delete;

  // By `moultctl vm`, with these options.
  absl::Status Boot(std::vector<std::string> options);
  // What `moultctl --json WORDS` prints.
  absl::StatusOr<nlohmann::json> Ask(std::vector<std::string> words) const;
  absl::Status End(const std::string& function) const;

  const std::string& accel() const { return accel_; }
  std::string Program(const std::string& name) const { return bin_ + "/" + name; }

 private:
  const std::string bin_;
  std::string control_;
  std::string accel_ = "as given";
  pid_t qemu_ = -1;
};

// The id in an answer of run or attach.
std::string FunctionOf(const nlohmann::json& told);

}  // namespace moult::bench

#endif  // MOULT_BENCH_GUEST_H_
