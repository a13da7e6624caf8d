// SPDX-License-Identifier: Apache-2.0
//
// Who lives in the guest: functions, and the processes that have memory.
#ifndef MOULT_LEDGER_CENSUS_H_
#define MOULT_LEDGER_CENSUS_H_

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "function/cgroup.h"
#include "moult/base/status.h"

namespace moult::agent {

struct Resident {  // a process
  pid_t pid = 0;
  std::string comm;
  uint64_t function = 0;  // whose it is, or whose sandbox's init; 0: none
  bool user = false;      // false: the system's, as a sandbox's init is
};

struct Household {  // a function
  uint64_t id = 0;
  std::unique_ptr<Cgroup> cgroup;
  bool frozen = false;
  std::string folder;
};

struct Census {
  std::vector<Household> functions;         // rising by id
  std::vector<Resident> processes;          // rising by pid
  std::map<uint64_t, uint64_t> by_cgroup;   // inode of a function's cgroup: its id
};

// `only` not 0: just that function, and its processes. Processes come and go meanwhile; those of a frozen function do not.
// kNotFound: no such function.
absl::StatusOr<Census> TakeCensus(const std::string& cgroup_root, const std::string& functions_dir, uint64_t only);

}  // namespace moult::agent

#endif  // MOULT_LEDGER_CENSUS_H_
