// SPDX-License-Identifier: Apache-2.0
//
// The last step of a restore: every thread has run its program and stands in the region; now it gets its
// registers, the region goes, and it runs.
#ifndef MOULT_IMAGE_IGNITION_H_
#define MOULT_IMAGE_IGNITION_H_

#include <sys/types.h>
#include <sys/user.h>

#include "image/plan.h"
#include "moult/base/status.h"

namespace moult::engine {

// The process `pid` (seized, with PTRACE_O_EXITKILL) has been let go. Waits until its leader's program has
// ended, and hands it all over. On an error the process still stands in the region: kill it.
class Ignition {
 public:
  Ignition(const image::ProcessImageT& image, const Plan& plan, pid_t pid, std::byte* view)
      : process_(*image.processes.front()), plan_(plan), pid_(pid), view_(view) {}

  absl::Status AwaitPrograms();
  // After that: how long the leader took to read the content into its memory.
  uint64_t FillMicros() const;
  absl::Status SeizeThreads();
  absl::Status RunLatePrograms();
  absl::Status SetStates();
  absl::Status Release();

 private:
  absl::StatusOr<int> WaitStop(pid_t tid);
  absl::Status CheckProgram(size_t offset, const ptrace::ProgramBuilder& program) const;
  absl::Status MapTids();
  // Fills rax and orig_rax for a thread whose call the kernel would have continued from its restart block.
  absl::Status SeedRestart(size_t index, const image::GpRegs& saved, user_regs_struct& final_regs);
  absl::StatusOr<uint64_t> CallInLeader(const char* what, uint64_t nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d);
  absl::Status UnmapRegion();

  const image::ProcessT& process_;
  const Plan& plan_;
  const pid_t pid_;
  std::byte* const view_;
  std::vector<pid_t> tids_;   // as we see them, in the image's order
  uint64_t gadget_ = 0;       // a syscall instruction that stays mapped
};

}  // namespace moult::engine

#endif  // MOULT_IMAGE_IGNITION_H_
