// SPDX-License-Identifier: Apache-2.0
#include "shell/shell.h"

#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "image/clock.h"

namespace moult::agent {
namespace {

absl::Status Fill(const Config& config, bool use_cgroup, Function& shell) {
  MOULT_RETURN_IF_ERROR(MakeFolder(shell));
  if (mkdir(kSharedTarget, 0755) < 0 && errno != EEXIST)
    return ErrnoStatus(absl::StrCat("make ", kSharedTarget));
  if (use_cgroup) {
    MOULT_ASSIGN_OR_RETURN(shell.cgroup, Cgroup::Open(config.cgroup_root, absl::StrCat(shell.info.id)));
  }
  const engine::SandboxMounts mounts{true, shell.folder + "/shared", kSharedTarget};
  MOULT_ASSIGN_OR_RETURN(shell.sandbox,
                         engine::Sandbox::Create(engine::NowNs(CLOCK_MONOTONIC), engine::NowNs(CLOCK_BOOTTIME), mounts));
  shell.init_pid = shell.sandbox->init_pid();
  shell.init_start = StartTime(shell.init_pid);
  shell.init_pidfd.Reset(static_cast<int>(syscall(SYS_pidfd_open, shell.init_pid, 0)));
  if (!shell.init_pidfd.valid()) return ErrnoStatus("open the sandbox's init");
  if (shell.cgroup != nullptr) MOULT_RETURN_IF_ERROR(shell.cgroup->Add(shell.init_pid));
  return Save(shell);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Function>> MakeShell(const Config& config, bool use_cgroup, uint64_t id) {
  auto shell = std::make_unique<Function>();
  shell->info.id = id;
  shell->info.spec = std::make_unique<rpc::FunctionSpecT>();
  shell->shell = true;
  shell->folder = absl::StrCat(config.state_dir, "/functions/", id);
  const absl::Status status = Fill(config, use_cgroup, *shell);
  if (status.ok()) return shell;
  shell->sandbox.reset();
  if (shell->cgroup != nullptr) shell->cgroup->Remove();
  RemoveFolder(*shell);
  return Annotate(status, "make a sandbox");
}

}  // namespace moult::agent
