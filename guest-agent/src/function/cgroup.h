// SPDX-License-Identifier: Apache-2.0
//
// A function's cgroup (v2): limits, freezer, what it used.
#ifndef MOULT_FUNCTION_CGROUP_H_
#define MOULT_FUNCTION_CGROUP_H_

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "moult/base/status.h"
#include "moult/base/unique_fd.h"

namespace moult::agent {

struct Limits {
  uint64_t memory = 0;     // bytes; 0: none, as below
  uint32_t cpu_milli = 0;  // thousandths of a CPU
  uint32_t pids = 0;
};

// Bytes, but for the count of page faults; 0: not known.
struct MemoryUse {
  uint64_t anon = 0;
  uint64_t shmem = 0;
  uint64_t file = 0;    // without shmem
  uint64_t kernel = 0;  // page tables, stacks, slab
  uint64_t faults = 0;
};

// Makes the folder that the functions' cgroups lie in and gives it what controllers there are. The
// controllers that functions can be limited with. kFailedPrecondition: no cgroup v2 there, or read-only.
absl::StatusOr<std::vector<std::string>> PrepareCgroupRoot(const std::string& root);

class Cgroup {
 public:
  // Makes or opens root/name.
  static absl::StatusOr<std::unique_ptr<Cgroup>> Open(const std::string& root, const std::string& name);

  int fd() const { return folder_.get(); }
  // kFailedPrecondition names the controller that is missing.
  absl::Status Limit(const Limits& limits) const;
  absl::Status Add(pid_t pid) const;
  // Waits until all in it stand still. kDeadlineExceeded: thawed again.
  absl::Status Freeze(std::chrono::steady_clock::time_point deadline) const;
  absl::Status Thaw() const;
  bool IsFrozen() const;
  // As the caller's pid namespace numbers them.
  absl::StatusOr<std::vector<pid_t>> Processes() const;
  uint64_t MemoryBytes() const;  // 0: not known
  MemoryUse Use() const;
  // What tmpfs files, memfds and shared memory hold that processes in it made. kNotFound: no memory controller.
  absl::StatusOr<uint64_t> SharedMemoryBytes() const;
  bool SawOutOfMemory() const;
  // Kills what is left in it and removes it; false: something is still ending, try again.
  bool Remove() const;
  const std::string& path() const { return path_; }

 private:
  explicit Cgroup(std::string path) : path_(std::move(path)) {}
  const std::string path_;
  UniqueFd folder_;
};

}  // namespace moult::agent

#endif  // MOULT_FUNCTION_CGROUP_H_
