// SPDX-License-Identifier: Apache-2.0
#include "resource/process/restore.h"

#include <fcntl.h>
#include <linux/membarrier.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "image/uninterrupted.h"
#include "proc/read.h"

namespace moult::engine {
namespace {

using ptrace::Arg;

absl::Status WriteProc(const char* path, const std::string& value) {
  const UniqueFd fd(open(path, O_WRONLY | O_CLOEXEC));
  if (!fd.valid() || write(fd.get(), value.data(), value.size()) < 0) return ErrnoStatus(absl::StrCat("write ", value, " to ", path));
  return absl::OkStatus();
}

absl::Status EnterRemovedDirectory(const image::FileRefT& file) {
  const char* path = file.path.c_str();
  if (mkdir(path, file.mode & 07777) < 0) {
    const absl::Status status = ErrnoStatus(absl::StrCat("make its removed working directory ", path, " again"));
    return absl::FailedPreconditionError(absl::StrCat(WithoutRemedy(status), "; make its parent folder, or move away what has its name"));
  }
  absl::Status status;
  if (chdir(path) < 0) status = ErrnoStatus(absl::StrCat("enter ", path));
  if (rmdir(path) < 0) status.Update(ErrnoStatus(absl::StrCat("remove ", path)));
  return status;
}

}  // namespace

void PlanProcess(const image::ProcessT& process, const Starting& starting, ptrace::ProgramBuilder& program) {
  if (process.personality != starting.personality) {
    program.Call("personality", SYS_personality, {process.personality});
  }
  if (process.memory->thp_disable != starting.thp_disable) {
    program.Call("prctl(PR_SET_THP_DISABLE)", SYS_prctl, {PR_SET_THP_DISABLE, process.memory->thp_disable ? 1 : 0, 0, 0, 0});
  }
  program.Call("prctl(PR_SET_CHILD_SUBREAPER)", SYS_prctl, {PR_SET_CHILD_SUBREAPER, process.child_subreaper ? 1 : 0, 0, 0, 0});
  // Each registration is a command of its own.
  for (uint32_t bit = 1; bit != 0; bit <<= 1) {
    if ((process.memory->membarrier & bit) != 0) program.Call("membarrier", SYS_membarrier, {bit, 0, 0});
  }
}

void PlanLimits(const image::ProcessT& process, const Starting& starting, ptrace::ProgramBuilder& program) {
  for (size_t i = 0; i < process.limits.size(); ++i) {
    const image::Limit& wanted = process.limits[i];
    if (wanted.soft() == starting.limits[i].soft() && wanted.hard() == starting.limits[i].hard()) continue;
    const rlimit limit{wanted.soft(), wanted.hard()};
    program.Call(absl::StrCat("set resource limit ", i, " to ", wanted.soft(), "/", wanted.hard(), " (raising needs CAP_SYS_RESOURCE)"),
                 SYS_prlimit64, {0, i, Arg::Data(program.AddObject(limit)), 0});
  }
}

absl::Status RestoreIds(const image::ProcessT& process) {
  // Elsewhere it stays where its maker is: that session and group may not exist any more.
  if (process.session == process.pid) {
    if (setsid() < 0) return ErrnoStatus("setsid");
  } else if (process.process_group == process.pid) {
    if (setpgid(0, 0) < 0) return ErrnoStatus("setpgid");
  }
  umask(process.umask);
  MOULT_ASSIGN_OR_RETURN(const std::string score, proc::ReadFile("/proc/self/oom_score_adj"));
  if (std::strtol(score.c_str(), nullptr, 10) != process.oom_score_adj) {
    MOULT_RETURN_IF_ERROR(WriteProc("/proc/self/oom_score_adj", absl::StrCat(process.oom_score_adj)));
  }
  return WriteProc("/proc/self/coredump_filter", absl::StrFormat("%#x", process.memory->coredump_filter));
}

absl::Status RestoreDirectories(RestoreContext& context) {
  const image::FileRefT& cwd = context.file(context.process.cwd);
  if (context.process.cwd_deleted) {
    MOULT_RETURN_IF_ERROR(Uninterrupted([&cwd] { return EnterRemovedDirectory(cwd); }));
  } else if (chdir(cwd.path.c_str()) < 0) {
    return ErrnoStatus(absl::StrCat("enter its working directory ", cwd.path));
  }
  if (context.process.root != 0xffffffffu) {
    // chroot leaves the working directory where it is.
    const image::FileRefT& root = context.file(context.process.root);
    if (chroot(root.path.c_str()) < 0) return ErrnoStatus(absl::StrCat("enter its root directory ", root.path));
  }
  return absl::OkStatus();
}

}  // namespace moult::engine
