// SPDX-License-Identifier: Apache-2.0
#include "resource/thread/check.h"

#include <linux/kcmp.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace moult::engine {
namespace {

// PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, Linux 6.4; Debian 12's headers are older.
constexpr int kGetSyscallDispatch = 0x4211;
struct SyscallDispatch {
  uint64_t mode;
  uint64_t selector;
  uint64_t offset;
  uint64_t length;
};

// Where its children would be made: unshare and setns change that before, or instead of, the namespace itself.
absl::Status CheckNamespacesForChildren(pid_t pid, pid_t tid) {
  const std::string folder = absl::StrCat("/proc/", pid, "/task/", tid, "/ns/");
  for (const char* kind : {"pid", "time"}) {
    struct stat own {};
    struct stat children {};
    if (stat((folder + kind).c_str(), &own) < 0) {
      if (errno == ENOENT && access(folder.c_str(), F_OK) == 0) continue;  // a kernel without that kind
      return ErrnoStatus(absl::StrCat("stat ", folder, kind));
    }
    // A pid namespace that nobody has entered yet has no name.
    const bool named = stat(absl::StrCat(folder, kind, "_for_children").c_str(), &children) == 0;
    if (!named && errno != ENOENT) return ErrnoStatus(absl::StrCat("stat ", folder, kind, "_for_children"));
    if (!named && access(folder.c_str(), F_OK) < 0) return ErrnoStatus(absl::StrCat("stat ", folder));
    if (named && own.st_dev == children.st_dev && own.st_ino == children.st_ino) continue;
    return Refuse(absl::StrCat(tid == pid ? "it" : absl::StrCat("thread ", tid), " has made a ", kind,
                               " namespace for its children (unshare or setns)"),
                  "capture it before it does, or without");
  }
  return absl::OkStatus();
}

// A thread's namespaces are its own affair, all but those that a process with several threads cannot enter.
absl::Status CheckThreadNamespaces(pid_t pid, pid_t tid) {
  for (const char* kind : {"net", "uts", "ipc", "cgroup", "mnt"}) {
    struct stat theirs {};
    struct stat leaders {};
    const std::string folder = absl::StrCat("/proc/", pid, "/task/", tid, "/ns/");
    if (stat((folder + kind).c_str(), &theirs) < 0 || stat(absl::StrCat("/proc/", pid, "/ns/", kind).c_str(), &leaders) < 0) {
      if (errno == ENOENT && access(folder.c_str(), F_OK) == 0) continue;  // a kernel without that kind
      return ErrnoStatus(absl::StrCat("stat ", folder, kind));
    }
    if (theirs.st_dev == leaders.st_dev && theirs.st_ino == leaders.st_ino) continue;
    return Refuse(absl::StrCat("thread ", tid, " has a ", kind, " namespace of its own (unshare or setns)"),
                  "run it as a process of its own");
  }
  return CheckNamespacesForChildren(pid, tid);
}

}  // namespace

absl::Status CheckThreadSharesAll(pid_t pid, pid_t tid) {
  constexpr struct {
    int type;
    const char* what;
  } kShared[] = {{KCMP_FILES, "descriptors"}, {KCMP_FS, "working directory"}, {KCMP_VM, "memory"}, {KCMP_SIGHAND, "signal handlers"}};
  if (tid == pid) return CheckNamespacesForChildren(pid, tid);
  for (const auto& shared : kShared) {
    const long order = syscall(SYS_kcmp, pid, tid, shared.type, 0, 0);
    if (order < 0) return ErrnoStatus(absl::StrCat("compare thread ", tid, " with its leader (kcmp)"));
    if (order != 0) {
      return Refuse(absl::StrCat("thread ", tid, " has ", shared.what, " of its own (unshare or clone)"),
                    "run it as a process of its own");
    }
  }
  return CheckThreadNamespaces(pid, tid);
}

absl::Status CheckThreadsShareAll(const CaptureContext& context) {
  if (context.before.is_plain()) return absl::OkStatus();
  for (const ptrace::TracedThread& thread : context.tracee.threads()) {
    MOULT_RETURN_IF_ERROR(CheckThreadSharesAll(context.pid(), thread.tid));
  }
  return absl::OkStatus();
}

absl::Status CheckThreadModes(const CaptureContext& context) {
  constexpr uint64_t kUserCode64 = 0x33;  // __USER_CS
  for (const ptrace::TracedThread& thread : context.tracee.threads()) {
    if (thread.regs.cs != kUserCode64) {
      return Refuse(absl::StrCat("thread ", thread.tid, " runs 32-bit code"), "use a 64-bit build of the program");
    }
    SyscallDispatch dispatch{};
    // Kernels before 6.4 do not tell.
    if (::ptrace(static_cast<__ptrace_request>(kGetSyscallDispatch), thread.tid, sizeof(dispatch), &dispatch) == 0 && dispatch.mode != 0) {
      return Refuse(absl::StrCat("thread ", thread.tid, " has its system calls dispatched to itself (PR_SET_SYSCALL_USER_DISPATCH)"),
                    "run it without");
    }
  }
  return absl::OkStatus();
}

}  // namespace moult::engine
