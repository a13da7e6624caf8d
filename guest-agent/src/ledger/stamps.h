// SPDX-License-Identifier: Apache-2.0
//
// From which part of its function's life a page is: its runtime, its initialization, or after that. What a
// process holds at the end of a part is recorded by virtual address, in the function's folder; what has no
// stamp is younger.
#ifndef MOULT_LEDGER_STAMPS_H_
#define MOULT_LEDGER_STAMPS_H_

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "ledger/address_space.h"
#include "moult/base/status.h"
#include "moult/protocol/message.h"

namespace moult::agent {

class Stamps {
 public:
  // Of the function with this folder; without any where there are none.
  static absl::StatusOr<Stamps> Read(const std::string& folder);
  // kDataLoss: not what Format wrote. Pure.
  static absl::StatusOr<Stamps> Parse(std::string_view text);

  // Gives what `pid` holds of its own, and what is not stamped yet, this stamp. kNotFound: it has gone.
  absl::Status Add(pid_t pid, rpc::Segment segment);
  // The same, of what somebody else has found.
  void Add(pid_t pid, rpc::Segment segment, const AddressSpaces& spaces);
  // Whole or not at all.
  absl::Status Save(const std::string& folder) const;
  std::string Format() const;

  // kExec for what has no stamp.
  rpc::Segment Of(pid_t pid, uint64_t va) const;

 private:
  struct Range {
    uint64_t start;
    uint64_t end;
    rpc::Segment segment;
  };
  // Rising, and apart.
  std::map<pid_t, std::vector<Range>> ranges_;
};

}  // namespace moult::agent

#endif  // MOULT_LEDGER_STAMPS_H_
