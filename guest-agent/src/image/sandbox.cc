// SPDX-License-Identifier: Apache-2.0
#include "image/sandbox.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include "image/clock.h"
#include "image/rseq.h"
#include "moult/base/page.h"
#include "moult/protocol/limits.h"
#include "parasite/blob.h"
#include "proc/timens.h"
#include "ptrace/wait.h"

namespace moult::engine {
namespace {

constexpr size_t kMessageSize = 1024;
constexpr int64_t kSecond = 1'000'000'000;

// Shared between tool and init: parasite, its work, errors, a stack.
struct Shared {
  alignas(kPage) unsigned char blob[kPage];
  alignas(kPage) MoultInit init;
  uint32_t code;
  char message[kMessageSize];
  alignas(kPage) unsigned char stack[kPage];
};

proc::TimensOffset OffsetBy(int64_t difference) {
  int64_t seconds = difference / kSecond;
  int64_t rest = difference % kSecond;
  if (rest < 0) {
    rest += kSecond;
    --seconds;
  }
  return {seconds, rest};
}

// Of the namespace that `process` ("self" or a pid) made for its children.
absl::Status WriteOffsets(const std::string& process, int64_t monotonic_ns, int64_t boottime_ns) {
  const UniqueFd fd(open(absl::StrCat("/proc/", process, "/timens_offsets").c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus("open timens_offsets");
  // CLOCK_MONOTONIC_COARSE is behind by up to some ticks, now by more than when the function last read it, perhaps. It is
  // moved together with the others, and must not go back either: so they go on that much later.
  const int64_t coarse_ns = NowNs(CLOCK_MONOTONIC_COARSE);
  const int64_t behind_ns = NowNs(CLOCK_MONOTONIC) - coarse_ns;
  const std::string text = proc::FormatTimensOffsets(
      {OffsetBy(monotonic_ns - coarse_ns), OffsetBy(boottime_ns + behind_ns - NowNs(CLOCK_BOOTTIME))});
  if (write(fd.get(), text.data(), text.size()) < 0)
    return ErrnoStatus(absl::StrCat("write timens_offsets ", text));
  return absl::OkStatus();
}

absl::Status MountAll(const SandboxMounts& mounts) {
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0)
    return ErrnoStatus("make mounts private");
  if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) < 0)
    return ErrnoStatus("mount /proc");
  // First, since the source may lie in what is covered next.
  if (!mounts.shared_source.empty() &&
      mount(mounts.shared_source.c_str(), mounts.shared_target.c_str(), nullptr, MS_BIND, nullptr) < 0) {
    return ErrnoStatus(absl::StrCat("mount ", mounts.shared_source, " on ", mounts.shared_target));
  }
  if (!mounts.private_tmp) return absl::OkStatus();
  for (const char* folder : image::kPrivateFolders) {
    if (mount("moult", folder, "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777") == 0) continue;
    // A guest without /dev/shm has nobody who uses it.
    if (errno != ENOENT) return ErrnoStatus(absl::StrCat("mount a private ", folder));
  }
  return absl::OkStatus();
}

absl::Status SetUp(int maker_pidfd, int64_t monotonic_ns, int64_t boottime_ns, const SandboxMounts& mounts) {
  const uint64_t all = ~uint64_t{0};  // glibc's functions leave two of its own signals out
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, nullptr, sizeof(all));
  if (prctl(PR_SET_PDEATHSIG, MOULT_MAKER_ENDED) < 0) return ErrnoStatus("prctl(PR_SET_PDEATHSIG)");
  pollfd maker{maker_pidfd, POLLIN, 0};
  if (poll(&maker, 1, 0) != 0) return absl::CancelledError("the maker ended before the signal was asked for");
  // The clocks of the tool's namespace, so before anything slow.
  if (unshare(CLONE_NEWTIME) < 0) return ErrnoStatus("make a time namespace");
  MOULT_RETURN_IF_ERROR(WriteOffsets("self", monotonic_ns, boottime_ns));
  MOULT_RETURN_IF_ERROR(MountAll(mounts));
  setsid();
  if (chdir("/") < 0) return ErrnoStatus("chdir /");
  prctl(PR_SET_NAME, "moult-init");
  return UnregisterRseq();
}

[[noreturn]] void RunInit(Shared* shared, int maker_pidfd, int64_t monotonic_ns, int64_t boottime_ns,
                          const SandboxMounts& mounts) {
  const absl::Status status = SetUp(maker_pidfd, monotonic_ns, boottime_ns, mounts);
  if (!status.ok()) {
    std::strncpy(shared->message, std::string(status.message()).c_str(), kMessageSize - 1);
    shared->code = static_cast<uint32_t>(status.code());
    _exit(1);
  }
  syscall(SYS_close_range, 0, ~0u, 0);
  const auto start = reinterpret_cast<uint64_t>(shared);
  const uint64_t end = start + sizeof(Shared);
  // SAFETY: this process needs nothing any more but these pages; everything else of the fork goes.
  shared->init.unmap_count = 2;
  shared->init.unmap[0][0] = 0;
  shared->init.unmap[0][1] = start;
  shared->init.unmap[1][0] = end;
  shared->init.unmap[1][1] = kUserTop - end;
  const uint64_t entry = start + parasite::InitOffset();
  const uint64_t stack = reinterpret_cast<uint64_t>(shared->stack) + kPage;
  __asm__ volatile(
      "mov %[stack], %%rsp\n\t"
      "call *%[entry]\n\t"
      :
      : [stack] "r"(stack), [entry] "r"(entry), "D"(&shared->init)
      : "memory");
  __builtin_unreachable();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Sandbox>> Sandbox::Create(int64_t monotonic_ns, int64_t boottime_ns,
                                                         const SandboxMounts& mounts) {
  std::unique_ptr<Sandbox> sandbox(new Sandbox());
  sandbox->shared_fd_.Reset(memfd_create("moult-init", MFD_CLOEXEC));
  if (!sandbox->shared_fd_.valid() || ftruncate(sandbox->shared_fd_.get(), sizeof(Shared)) < 0)
    return ErrnoStatus("make memory for the sandbox's init");
  MOULT_RETURN_IF_ERROR(sandbox->MapShared());
  auto* shared = static_cast<Shared*>(sandbox->shared_);
  std::memcpy(shared->blob, parasite::BlobData(), parasite::BlobSize());
  const UniqueFd maker_pidfd(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
  if (!maker_pidfd.valid()) return ErrnoStatus("open our own process");
  clone_args args{};
  args.flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_PIDFD;
  args.exit_signal = SIGCHLD;
  int pidfd = -1;
  args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
  const long pid = syscall(SYS_clone3, &args, sizeof(args));
  if (pid < 0) {
    const int error = errno;
    const absl::Status status = CloneStatus(error, "make the sandbox's namespaces");
    return error == EPERM ? WithRemedy(status, "run as root or with CAP_SYS_ADMIN") : status;
  }
  if (pid == 0) RunInit(shared, maker_pidfd.get(), monotonic_ns, boottime_ns, mounts);
  sandbox->pid_ = static_cast<pid_t>(pid);
  sandbox->pidfd_.Reset(pidfd);
  while (__atomic_load_n(&shared->init.ready, __ATOMIC_ACQUIRE) == 0) {
    const timespec wait{0, 20'000'000};
    syscall(SYS_futex, &shared->init.ready, FUTEX_WAIT, 0, &wait, nullptr, 0);
    int status = 0;
    if (waitpid(sandbox->pid_, &status, WNOHANG) == sandbox->pid_) {
      sandbox->pid_ = -1;
      if (shared->code != 0)
        return absl::Status(static_cast<absl::StatusCode>(shared->code), shared->message);
      const std::string how = absl::StrCat("the sandbox's init ", ptrace::DescribeStatus(status));
      return WIFSIGNALED(status) ? absl::UnavailableError(absl::StrCat(how, "; try again"))
                                 : absl::InternalError(how);
    }
  }
  const std::string path = absl::StrCat("/proc/", sandbox->pid_, "/ns/time_for_children");
  sandbox->time_namespace_.Reset(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!sandbox->time_namespace_.valid()) {
    const absl::Status status = ErrnoStatus(absl::StrCat("open ", path));
    return sandbox->HasEnded()
               ? absl::UnavailableError(absl::StrCat("the sandbox's init was killed meanwhile (",
                                                     WithoutRemedy(status), "); try again"))
               : status;
  }
  return sandbox;
}

absl::StatusOr<std::unique_ptr<Sandbox>> Sandbox::Adopt(pid_t init_pid, UniqueFd pidfd,
                                                        UniqueFd time_namespace, UniqueFd shared) {
  std::unique_ptr<Sandbox> sandbox(new Sandbox());
  sandbox->pid_ = init_pid;
  sandbox->pidfd_ = std::move(pidfd);
  sandbox->time_namespace_ = std::move(time_namespace);
  sandbox->shared_fd_ = std::move(shared);
  sandbox->keep_ = true;  // its owner's business
  MOULT_RETURN_IF_ERROR(sandbox->MapShared());
  return sandbox;
}

absl::Status Sandbox::MapShared() {
  static_assert(sizeof(Shared) % kPage == 0);
  void* memory =
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED, shared_fd_.get(), 0);
  if (memory == MAP_FAILED) return ErrnoStatus("map the sandbox's init");
  shared_ = memory;
  return absl::OkStatus();
}

absl::Status Sandbox::SetClocks(int64_t monotonic_ns, int64_t boottime_ns) {
  return WriteOffsets(absl::StrCat(pid_), monotonic_ns, boottime_ns);
}

void Sandbox::SetChild(pid_t inner_pid, bool outlives_maker) {
  MoultInit& init = static_cast<Shared*>(shared_)->init;
  if (outlives_maker) __atomic_store_n(&init.kept, 1, __ATOMIC_RELEASE);
  __atomic_store_n(&init.child, static_cast<uint32_t>(inner_pid), __ATOMIC_RELEASE);
  // It may have ended already; the init then has an old signal behind it.
  syscall(SYS_pidfd_send_signal, pidfd_.get(), SIGCHLD, nullptr, 0);
}

void Sandbox::Keep() {
  keep_ = true;
  __atomic_store_n(&static_cast<Shared*>(shared_)->init.kept, 1, __ATOMIC_RELEASE);
}

bool Sandbox::HasEnded() const {
  pollfd poller{pidfd_.get(), POLLIN, 0};
  // One that is ending takes in no process any more, before its pidfd says so.
  return poll(&poller, 1, 0) != 0 || ptrace::IsEnding(pid_);
}

int Sandbox::ChildStatus() const {
  const MoultInit& init = static_cast<const Shared*>(shared_)->init;
  return __atomic_load_n(&init.ended, __ATOMIC_ACQUIRE) != 0 ? static_cast<int>(init.status) : -1;
}

absl::StatusOr<MountScope> MountScope::Enter(const Sandbox* sandbox) {
  MountScope scope;
  if (sandbox == nullptr) return scope;
  UniqueFd ours(open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC));
  scope.cwd_.Reset(open(".", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!ours.valid() || !scope.cwd_.valid()) return ErrnoStatus("open our own mount namespace");
  if (setns(sandbox->handles().pidfd, CLONE_NEWNS) < 0)
    return ErrnoStatus("enter the sandbox's mount namespace");
  scope.namespace_ = std::move(ours);
  return scope;
}

MountScope::~MountScope() {
  if (!namespace_.valid()) return;
  // Could only fail for lack of a capability that was there a moment ago; to go on in the wrong place would
  // be worse.
  if (setns(namespace_.get(), CLONE_NEWNS) < 0) abort();
  if (fchdir(cwd_.get()) < 0) abort();
}

Sandbox::~Sandbox() {
  if (pid_ > 0 && !keep_) {
    syscall(SYS_pidfd_send_signal, pidfd_.get(), SIGKILL, nullptr, 0);
    waitpid(pid_, nullptr, 0);
  }
  if (shared_ != nullptr) munmap(shared_, sizeof(Shared));
}

}  // namespace moult::engine
