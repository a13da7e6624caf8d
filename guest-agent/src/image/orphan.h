// SPDX-License-Identifier: Apache-2.0
//
// Processes whose parent is not their maker but whoever takes orphans in where they are: a sandbox's init.
#ifndef MOULT_IMAGE_ORPHAN_H_
#define MOULT_IMAGE_ORPHAN_H_

#include <linux/sched.h>
#include <sys/types.h>

#include "absl/functional/function_ref.h"
#include "moult/base/unique_fd.h"

namespace moult::engine {

struct Orphan {
  pid_t pid = -1;        // as the caller sees it
  pid_t inner_pid = -1;  // in its own pid namespace
  UniqueFd pidfd;
};

// Makes a process as clone3 does with `args`, which share no memory, and calls `child` in it, which does not return and has
// 256 KiB of stack. Between the two is a process that ends at once, with pid `middle_pid` (0: any). Returns 0, or an errno;
// ESRCH: one of the two was killed meanwhile. The caller has one thread.
int CloneOrphan(clone_args args, pid_t middle_pid, absl::FunctionRef<void()> child, Orphan* orphan);

}  // namespace moult::engine

#endif  // MOULT_IMAGE_ORPHAN_H_
