// SPDX-License-Identifier: Apache-2.0
//
// /proc/PID/mountinfo.
#ifndef MOULT_PROC_MOUNTINFO_H_
#define MOULT_PROC_MOUNTINFO_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace moult::proc {

// All strings are unescaped.
struct MountInfo {
  int id = 0;  // mnt_id of fdinfo and statx
  int parent_id = 0;
  uint32_t dev_major = 0;
  uint32_t dev_minor = 0;
  std::string root;         // what of the file system is mounted
  std::string mount_point;  // seen from the process's root
  std::string options;      // of this mount: "rw,nosuid"
  int shared = 0;           // peer group, 0: none
  int master = 0;
  int propagate_from = 0;
  bool unbindable = false;
  std::string fs_type;
  std::string source;
  std::string super_options;
};

absl::StatusOr<std::vector<MountInfo>> ParseMountInfo(std::string_view text);

}  // namespace moult::proc

#endif  // MOULT_PROC_MOUNTINFO_H_
