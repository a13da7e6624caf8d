// SPDX-License-Identifier: Apache-2.0
#include "image/kernel_check.h"

#include <cerrno>
#include <csignal>

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/kcmp.h>
#include <linux/sched.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "image/host.h"
#include "moult/base/unique_fd.h"
#include "proc/read.h"
#include "proc/status.h"
#include "proc/timer_list.h"
#include "resource/memory/page_scan.h"
#include "resource/unix_socket/diag.h"

namespace moult::engine {
namespace {

// A child that waits to be killed, for probes that need another process.
class Child {
 public:
  explicit Child(unsigned long flags = 0, const pid_t* set_tid = nullptr) {
    clone_args args{};
    args.flags = flags;
    args.exit_signal = SIGCHLD;
    if (set_tid != nullptr) {
      args.set_tid = reinterpret_cast<uint64_t>(set_tid);
      args.set_tid_size = 1;
    }
    pid_ = static_cast<pid_t>(syscall(SYS_clone3, &args, sizeof(args)));
    error_ = pid_ < 0 ? errno : 0;
    if (pid_ == 0) {
      for (;;) pause();
    }
  }
  ~Child() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, __WALL);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  pid_t pid() const { return pid_; }
  int error() const { return error_; }

 private:
  pid_t pid_;
  int error_;
};

bool HasCapability(int capability) {
  auto text = proc::ReadFile("/proc/self/status");
  if (!text.ok()) return false;
  auto status = proc::ParseStatus(*text);
  return status.ok() && (status->cap_eff >> capability & 1) != 0;
}

bool CanSeize() {
  const Child child;
  if (child.pid() < 0) return false;
  return ::ptrace(PTRACE_SEIZE, child.pid(), nullptr, nullptr) == 0;
}

bool CanSuspendSeccomp() {
  const Child child;
  return child.pid() > 0 && ::ptrace(PTRACE_SEIZE, child.pid(), nullptr, PTRACE_O_SUSPEND_SECCOMP) == 0;
}

// The pid of a child that has just ended is free, most likely.
bool CanSetTid() {
  pid_t free_pid;
  {
    const Child child;
    free_pid = child.pid();
  }
  const Child chosen(0, &free_pid);
  return chosen.pid() == free_pid || chosen.error() == EEXIST;
}

bool CanMakeSandbox() { return Child(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC).pid() > 0; }

bool CanTakeDescriptors() {
  const Child child;
  if (child.pid() < 0) return false;
  const UniqueFd null(open("/dev/null", O_RDONLY | O_CLOEXEC));  // a number that the child need not have
  const UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, child.pid(), 0)));
  const UniqueFd taken(static_cast<int>(syscall(SYS_pidfd_getfd, pidfd.get(), 0, 0)));
  return taken.valid() || errno == EBADF;
}

// The size of the map it takes; only a kernel that can set it tells.
bool CanSetMemoryMap() {
  unsigned int size = 0;
  return prctl(PR_SET_MM, PR_SET_MM_MAP_SIZE, &size, 0, 0) == 0 && (HasCapability(CAP_CHECKPOINT_RESTORE) || HasCapability(CAP_SYS_ADMIN));
}

bool CanAskUnixSockets() {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) return false;
  const UniqueFd one(pair[0]);
  const UniqueFd other(pair[1]);
  struct stat st {};
  auto diag = UnixDiagSocket::Open();
  return diag.ok() && fstat(one.get(), &st) == 0 && diag->Query(static_cast<uint32_t>(st.st_ino)).ok();
}

bool HasTimerList() {
  auto text = proc::ReadFile("/proc/timer_list");
  return text.ok() && proc::ParseTimerList(*text).ok();
}

bool CanReadMapFiles() {
  const UniqueFd fd(open("/proc/self/map_files", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return fd.valid() && (HasCapability(CAP_SYS_ADMIN) || HasCapability(CAP_CHECKPOINT_RESTORE));
}

bool HasPageScan() {
  auto scan = PageScan::Open(getpid());
  return scan.ok() && scan->fast();
}

const char kAsRoot[] = "run as root, or grant the capability";
const char kConfig[] = "use a kernel built with CONFIG_CHECKPOINT_RESTORE=y (Debian's are)";

}  // namespace

std::vector<KernelFeature> CheckKernel() {
  std::vector<KernelFeature> features;
  const auto add = [&](std::string name, bool present, bool required, std::string purpose, std::string remedy) {
    features.push_back({std::move(name), present, required, std::move(purpose), std::move(remedy)});
  };
  add("ptrace", CanSeize(), true, "stop a process and read its registers", "run as root or with CAP_SYS_PTRACE; allow ptrace (kernel.yama.ptrace_scope, seccomp profile of the container)");
  add("cap_sys_admin", HasCapability(CAP_SYS_ADMIN), true, "sandboxes, mapped files, seccomp filters", kAsRoot);
  add("cap_checkpoint_restore", HasCapability(CAP_CHECKPOINT_RESTORE) || HasCapability(CAP_SYS_ADMIN), true, "choose pids", kAsRoot);
  add("cap_sys_resource", HasCapability(CAP_SYS_RESOURCE), false, "raise hard limits, lower oom_score_adj", kAsRoot);
  add("vdso", VdsoSyscallOffset().ok(), true, "run system calls inside a process", "boot without vdso=0");
  add("kcmp", syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILES, 0, 0) == 0, true, "tell shared descriptors from equal ones", "use a kernel built with CONFIG_KCMP=y (Debian's are)");
  add("set_tid", CanSetTid(), true, "make threads with their old ids (Linux 5.5)", kConfig);
  add("proc_children", access("/proc/thread-self/children", F_OK) == 0, true, "tell that a process has no children", "use a kernel built with CONFIG_PROC_CHILDREN=y (Debian's are)");
  add("map_files", CanReadMapFiles(), true, "reach files behind mappings", kConfig);
  add("pidfd_getfd", CanTakeDescriptors(), true, "look at descriptors (Linux 5.6)", "run as root or with CAP_SYS_PTRACE; use a newer kernel");
  add("mm_map", CanSetMemoryMap(), true, "set heap, arguments and program of a restored process", kConfig);
  add("unix_diag", CanAskUnixSockets(), false, "processes with unix sockets", "load the module unix_diag, or use a kernel built with CONFIG_UNIX_DIAG");
  add("timer_list", HasTimerList(), false, "time that remains of sleeps without a pointer for it; without it some begin anew", "run as root; use a kernel that has /proc/timer_list");
  add("tid_address", [] { int* address = nullptr; return prctl(PR_GET_TID_ADDRESS, &address) == 0; }(), true, "joins of threads", kConfig);
  add("seccomp_suspend", CanSuspendSeccomp(), false, "processes with seccomp filters", kConfig);
  add("sandbox", CanMakeSandbox(), false, "restore --sandbox", "run as root with CAP_SYS_ADMIN, in a kernel with CONFIG_PID_NS, CONFIG_IPC_NS");
  add("time_namespace", access("/proc/self/ns/time", F_OK) == 0, false, "clocks in a sandbox go on from where they were (Linux 5.6)", "use a kernel built with CONFIG_TIME_NS=y");
  add("pagemap_scan", HasPageScan(), false, "find private pages faster (Linux 6.7); without it pagemap is read", "use a newer kernel");
  return features;
}

}  // namespace moult::engine
