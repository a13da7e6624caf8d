// SPDX-License-Identifier: Apache-2.0
//
// /proc/PID/status and /proc/PID/task/TID/status.
#ifndef MOULT_PROC_STATUS_H_
#define MOULT_PROC_STATUS_H_

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace moult::proc {

// A line that this kernel does not have leaves its field as it is here.
struct Status {
  std::string name;  // comm, unescaped
  char state = 0;    // R S D T t Z X I P
  pid_t tgid = 0;
  pid_t pid = 0;
  pid_t ppid = 0;
  pid_t tracer_pid = 0;
  std::array<uint32_t, 4> uid{};  // real, effective, saved, file system
  std::array<uint32_t, 4> gid{};
  std::vector<uint32_t> groups;
  // From the reader's pid namespace inwards; the last one is what the process itself sees.
  std::vector<pid_t> ns_tgid;
  std::vector<pid_t> ns_pid;
  std::vector<pid_t> ns_pgid;
  std::vector<pid_t> ns_sid;
  uint32_t umask = 0;  // not shown for a zombie
  int threads = 0;
  bool core_dumping = false;
  bool kthread = false;             // "Kthread: 1", since 6.8
  std::optional<bool> thp_enabled;  // false: PR_SET_THP_DISABLE; not shown without an mm
  uint64_t sig_queued = 0;
  uint64_t sig_queue_limit = 0;
  uint64_t sig_pending = 0;  // signal masks: bit n-1 is signal n
  uint64_t shared_pending = 0;
  uint64_t blocked = 0;
  uint64_t ignored = 0;
  uint64_t caught = 0;
  uint64_t cap_inh = 0;
  uint64_t cap_prm = 0;
  uint64_t cap_eff = 0;
  uint64_t cap_bnd = 0;
  uint64_t cap_amb = 0;
  bool no_new_privs = false;
  int seccomp = 0;          // 0 none, 1 strict, 2 filter
  int seccomp_filters = 0;  // since 5.9
  uint64_t vm_size = 0;     // bytes, as all below
  uint64_t vm_rss = 0;
  uint64_t vm_swap = 0;
  uint64_t vm_locked = 0;
  uint64_t vm_pinned = 0;
  uint64_t vm_pte = 0;
  uint64_t rss_anon = 0;
  uint64_t rss_file = 0;
  uint64_t rss_shmem = 0;
  uint64_t hugetlb_pages = 0;
};

absl::StatusOr<Status> ParseStatus(std::string_view text);

}  // namespace moult::proc

#endif  // MOULT_PROC_STATUS_H_
