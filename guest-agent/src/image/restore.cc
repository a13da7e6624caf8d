// SPDX-License-Identifier: Apache-2.0
#include "image/restore.h"

#include <algorithm>
#include <climits>
#include <csignal>

#include <linux/futex.h>
#include <malloc.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/strings/strip.h"
#include "image/builder.h"
#include "image/control.h"
#include "image/files.h"
#include "image/host.h"
#include "image/ignition.h"
#include "image/plan.h"
#include "image/sandbox.h"
#include "moult/protocol/template_reader.h"
#include "proc/fdinfo.h"
#include "proc/read.h"
#include "proc/stat.h"
#include "ptrace/wait.h"

namespace moult::engine {
namespace {

int64_t NowNs(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

// By one that has ended, and that its parent has not waited for.
absl::Status PidTakenByZombie(pid_t pid, pid_t parent) {
  auto comm = proc::ReadFile(absl::StrCat("/proc/", parent, "/comm"));
  const std::string who = comm.ok() ? absl::StrCat(" (", absl::StripSuffix(*comm, "\n"), ")") : "";
  return absl::FailedPreconditionError(absl::StrCat("pid ", pid, " is still that of a process that has ended and that its parent, process ", parent, who,
                                                    ", has not waited for; let the parent wait (or end it), or use --sandbox"));
}

absl::Status PidTaken(pid_t pid) {
  auto text = proc::ReadFile(absl::StrCat("/proc/", pid, "/stat"));
  const auto stat = text.ok() ? proc::ParseStat(*text) : text.status();
  if (stat.ok() && stat->state == 'Z') return PidTakenByZombie(pid, stat->ppid);
  if (absl::IsNotFound(stat.status())) {
    return absl::FailedPreconditionError(absl::StrCat("pid ", pid, " is still the number of a process group or session that other processes belong to; end those, or use --sandbox"));
  }
  auto comm = proc::ReadFile(absl::StrCat("/proc/", pid, "/comm"));
  const std::string who = comm.ok() ? absl::StrCat(" (", absl::StripSuffix(*comm, "\n"), ")") : "";
  return absl::FailedPreconditionError(absl::StrCat("pid ", pid, " is taken by another process or thread", who, "; use --sandbox, or end that process"));
}

absl::Status CheckOptions(const RestoreOptions& options) {
  if (options.count < 1 || (options.count > 1 && !options.sandbox)) {
    return absl::InvalidArgumentError(absl::StrCat("cannot make ", options.count, " processes with the same pid; use --sandbox"));
  }
  if (options.prepared != nullptr && (options.count != 1 || !options.sandbox)) {
    return absl::InvalidArgumentError("a prepared sandbox takes one process");
  }
  return absl::OkStatus();
}

absl::Status CheckPlace(const image::ProcessImageT& image, const RestoreOptions& options) {
  if (options.sandbox) return absl::OkStatus();
  if (image.sandboxed) {
    return absl::FailedPreconditionError("the process was captured in a sandbox (pid, mount, ipc or time namespace of its own); use --sandbox");
  }
  if (image.monotonic_ns > NowNs(CLOCK_MONOTONIC) || image.boottime_ns > NowNs(CLOCK_BOOTTIME)) {
    return absl::FailedPreconditionError("its monotonic clock would go back (captured on a machine that was up longer); use --sandbox");
  }
  for (const auto& thread : image.processes.front()->threads) {
    if (access(absl::StrCat("/proc/", thread->tid).c_str(), F_OK) == 0) return PidTaken(thread->tid);
  }
  return absl::OkStatus();
}

// Our own limit of open files must hold the function's numbers and ours above them.
void RaiseFileLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
}

// The region that tool and builder share.
class Region {
 public:
  static absl::StatusOr<std::unique_ptr<Region>> Create(size_t size) {
    std::unique_ptr<Region> region(new Region(size));
    region->fd_.Reset(memfd_create("moult-restore", MFD_CLOEXEC));
    if (!region->fd_.valid() || ftruncate(region->fd_.get(), static_cast<off_t>(size)) < 0) return ErrnoStatus("make the restore region");
    void* view = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, region->fd_.get(), 0);
    if (view == MAP_FAILED) return ErrnoStatus("map the restore region");
    region->view_ = static_cast<std::byte*>(view);
    return region;
  }
  ~Region() {
    if (view_ != nullptr) munmap(view_, size_);
  }
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
  int fd() const { return fd_.get(); }
  std::byte* view() const { return view_; }

 private:
  explicit Region(size_t size) : size_(size) {}
  size_t size_;
  UniqueFd fd_;
  std::byte* view_ = nullptr;
};

// A process in the making: killed and reaped unless it was let go.
class NewProcess {
 public:
  explicit NewProcess(pid_t pid) : pid_(pid) {}
  ~NewProcess() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    const auto deadline = ptrace::Clock::now() + std::chrono::seconds(10);
    while (!Reap() && ptrace::Clock::now() < deadline) {
      const timespec pause{0, 1'000'000};
      nanosleep(&pause, nullptr);
    }
  }
  NewProcess(const NewProcess&) = delete;
  NewProcess& operator=(const NewProcess&) = delete;
  void Keep() { pid_ = 0; }

 private:
  // True when nothing of it is left that waits for us. A thread that we trace stays until we wait for it: its leader is not
  // reported before, and the sandbox around it cannot end, not even when the leader is no concern of ours any more (let go,
  // and a child of the sandbox's init). So the threads come first, whatever is known of the leader.
  bool Reap() const {
    bool threads = false;
    auto tids = proc::ListNumeric(absl::StrCat("/proc/", pid_, "/task"));
    if (tids.ok()) {
      for (const int tid : *tids) {
        if (tid == pid_) continue;
        threads = true;
        waitpid(tid, nullptr, __WALL | WNOHANG);
      }
    }
    if (threads) return false;
    int status = 0;
    const pid_t got = waitpid(pid_, &status, __WALL | WNOHANG);
    return (got == pid_ && ptrace::IsGone(status)) || (got < 0 && errno == ECHILD);
  }

  pid_t pid_;
};

class Restorer {
 public:
  explicit Restorer(const RestoreOptions& options) : options_(options) {}

  absl::StatusOr<RestoreResult> RunDir(const std::string& dir) {
    MOULT_ASSIGN_OR_RETURN(reader_, image::TemplateReader::Open(dir));
    result_.phases.End("read image");
    if (fstat(reader_->pages_fd(), &verified_) < 0) return ErrnoStatus("stat pages");
    MOULT_RETURN_IF_ERROR(reader_->VerifyPages());
    result_.phases.End("verify pages");
    return Run({dir, reader_->image(), reader_->manifest(), {.fd = reader_->pages_fd()}});
  }

  absl::StatusOr<RestoreResult> Run(const LooseTemplate& from) {
    MOULT_RETURN_IF_ERROR(Prepare(from));
    for (int i = 0; i < options_.count; ++i) {
      // On an error the sandboxes made so far end with all in them.
      MOULT_RETURN_IF_ERROR(RestoreOne());
    }
    for (auto& sandbox : sandboxes_) sandbox->Keep();
    result_.total_us = result_.phases.TotalMicros();
    result_.notes = image_->notes;
    return std::move(result_);
  }

 private:
  absl::Status Prepare(const LooseTemplate& from) {
    ptrace::BlockChildSignal();
    RaiseFileLimit();
    // Memory that was used once stays: to give it back and fault it in again costs more.
    mallopt(M_TRIM_THRESHOLD, INT_MAX);
    mallopt(M_MMAP_THRESHOLD, 64 << 20);
    mallopt(M_TOP_PAD, 1 << 20);
    tool_pidfd_.Reset(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
    if (!tool_pidfd_.valid()) return ErrnoStatus("open our own process");
    image_ = &from.image;
    process_ = image_->processes.front().get();
    MOULT_ASSIGN_OR_RETURN(const auto host, DescribeHost());
    MOULT_RETURN_IF_ERROR(CheckRequirements(*from.manifest.requirements, *host));
    {
      MOULT_ASSIGN_OR_RETURN(const MountScope scope, MountScope::Enter(options_.prepared));
      MOULT_RETURN_IF_ERROR(CheckFiles(*image_));
    }
    MOULT_RETURN_IF_ERROR(CheckPlace(*image_, options_));
    result_.phases.End("check");
    MOULT_ASSIGN_OR_RETURN(opened_, OpenMappedFiles(*image_, from.pages, options_.prepared));
    MOULT_ASSIGN_OR_RETURN(const Starting starting, DescribeSelf());
    MOULT_ASSIGN_OR_RETURN(plan_, MakePlan(*image_, opened_.numbers, starting));
    result_.phases.End("plan");
    return absl::OkStatus();
  }

  // The parent must be the one that the process keeps, not this tool, which soon ends: in a sandbox its init,
  // which reaps and ends with it; elsewhere where a parent-death signal says that it matters.
  bool WantsLastingParent() const {
    return options_.sandbox || std::any_of(process_->threads.begin(), process_->threads.end(), [](const auto& thread) { return thread->parent_death_signal != 0; });
  }

  static long CloneBuilder(clone_args& args, const BuilderInput& input, const Region& region) {
    const long pid = syscall(SYS_clone3, &args, sizeof(args));
    if (pid == 0) RunBuilder(input, region.view());
    return pid;
  }

  // As CloneBuilder, but through a middle process that ends: the builder's parent is whoever takes orphans in.
  long CloneOrphan(clone_args& args, const BuilderInput& input, const Region& region) {
    auto* control = reinterpret_cast<Control*>(region.view());
    clone_args middle_args{};
    middle_args.exit_signal = SIGCHLD;
    middle_args.flags = CLONE_FILES;  // so that the pidfd it gets is ours
    // In a new pid namespace the next free pid may be one that the function wants.
    pid_t spare = 2;
    while (std::any_of(process_->threads.begin(), process_->threads.end(), [spare](const auto& thread) { return thread->tid == spare; })) ++spare;
    if (options_.sandbox) {
      middle_args.set_tid = reinterpret_cast<uint64_t>(&spare);
      middle_args.set_tid_size = 1;
    }
    control->orphan_pidfd = -1;
    control->orphan_error = ESRCH;  // until the middle process says otherwise
    const long middle = syscall(SYS_clone3, &middle_args, sizeof(middle_args));
    if (middle == 0) {
      int pidfd = -1;
      args.flags |= CLONE_PIDFD;
      args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
      const long pid = CloneBuilder(args, input, region);
      control->orphan_error = pid < 0 ? errno : 0;
      control->orphan_pidfd = pidfd;
      _exit(0);
    }
    if (middle < 0) return -1;
    siginfo_t info{};
    while (waitid(P_PID, static_cast<id_t>(middle), &info, WEXITED) < 0 && errno == EINTR) {
    }
    if (control->orphan_error != 0) {
      errno = control->orphan_error;
      return -1;
    }
    const UniqueFd pidfd(control->orphan_pidfd);
    auto text = proc::ReadFile(absl::StrCat("/proc/self/fdinfo/", pidfd.get()));
    auto info_of_pidfd = text.ok() ? proc::ParseFdInfo(*text) : text.status();
    const pid_t pid = info_of_pidfd.ok() ? info_of_pidfd->pidfd_pid.value_or(-1) : -1;
    if (pid <= 0) errno = ESRCH;  // it has ended, and its new parent has waited for it
    return pid;
  }

  absl::StatusOr<pid_t> StartBuilder(const Region& region, const Sandbox* sandbox) {
    // Enters the sandbox's pid namespace for the children we make, for this one only.
    if (sandbox != nullptr) {
      if (setns(sandbox->handles().pidfd, CLONE_NEWPID) < 0) return ErrnoStatus("enter the sandbox's pid namespace");
    }
    clone_args args{};
    args.exit_signal = SIGCHLD;
    if (options_.cgroup >= 0) {
      args.flags |= CLONE_INTO_CGROUP;
      args.cgroup = static_cast<uint64_t>(options_.cgroup);
    }
    args.set_tid = reinterpret_cast<uint64_t>(&process_->pid);
    args.set_tid_size = 1;
    // All signals, glibc's own two among them, which its functions leave out. Not SIGTRAP: the program ends in
    // one, and forced on a thread that blocks it it would lose its handler.
    const uint64_t all = ~(uint64_t{1} << (SIGTRAP - 1));
    uint64_t old = 0;
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &old, sizeof(all));
    const BuilderInput input{image_, &plan_, &opened_.numbers, region.fd(), tool_pidfd_.get(), sandbox != nullptr ? sandbox->handles() : SandboxHandles{}};
    const long pid = WantsLastingParent() ? CloneOrphan(args, input, region) : CloneBuilder(args, input, region);
    const int error = errno;
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &old, nullptr, sizeof(old));
    if (sandbox != nullptr && setns(tool_pidfd_.get(), CLONE_NEWPID) < 0) {
      return ErrnoStatus("go back to our own pid namespace");
    }
    if (pid > 0) return static_cast<pid_t>(pid);
    if (error == EEXIST) return PidTaken(process_->pid);
    if (error == EPERM) return absl::PermissionDeniedError(absl::StrCat("make a process with pid ", process_->pid, ": EPERM; run as root or with CAP_CHECKPOINT_RESTORE"));
    if (error == EINVAL) return absl::FailedPreconditionError(absl::StrCat("make a process with pid ", process_->pid, ": EINVAL; the pid is above kernel.pid_max here"));
    return ErrnoStatus(error, absl::StrCat("make a process with pid ", process_->pid));
  }

  // What was verified must be what was read.
  absl::Status CheckPagesUnchanged() const {
    if (reader_ == nullptr) return absl::OkStatus();
    struct stat now {};
    if (fstat(reader_->pages_fd(), &now) < 0) return ErrnoStatus("stat pages");
    const auto same = [](const timespec& a, const timespec& b) { return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec; };
    if (now.st_size == verified_.st_size && same(now.st_mtim, verified_.st_mtim)) return absl::OkStatus();
    return absl::DataLossError("its pages were written to during the restore; a template must not change");
  }

  absl::Status RestoreOne() {
    std::unique_ptr<Sandbox> made;
    Sandbox* sandbox = options_.prepared;
    if (sandbox != nullptr) {
      MOULT_RETURN_IF_ERROR(sandbox->SetClocks(image_->monotonic_ns, image_->boottime_ns));
      result_.phases.End("sandbox");
    } else if (options_.sandbox) {
      MOULT_ASSIGN_OR_RETURN(made, Sandbox::Create(image_->monotonic_ns, image_->boottime_ns));
      sandbox = made.get();
      result_.phases.End("sandbox");
    }
    const absl::Status status = MakeProcess(sandbox, /*outlives_tool=*/made == nullptr);
    if (!status.ok() && sandbox != nullptr && sandbox->HasEnded()) {
      return absl::UnavailableError(absl::StrCat("the sandbox's init was killed meanwhile (", status.message(), "); try again"));
    }
    // What was there when it was looked at and is not now: a file, or the process itself.
    if (absl::IsNotFound(status)) return absl::UnavailableError(status.message());
    MOULT_RETURN_IF_ERROR(status);
    if (made != nullptr) sandboxes_.push_back(std::move(made));
    return absl::OkStatus();
  }

  absl::Status MakeProcess(Sandbox* sandbox, bool outlives_tool) {
    MOULT_ASSIGN_OR_RETURN(const auto region, Region::Create(plan_.layout.size));
    WriteRegion(*process_, plan_, region->view());
    MOULT_ASSIGN_OR_RETURN(const pid_t pid, StartBuilder(*region, sandbox));
    NewProcess guard(pid);
    // From here on our death, however sudden, is the end of the half-made process.
    if (::ptrace(PTRACE_SEIZE, pid, nullptr, PTRACE_O_EXITKILL | PTRACE_O_SUSPEND_SECCOMP) < 0) {
      const int error = errno;
      if (error == ESRCH || ptrace::IsEnding(pid)) return absl::UnavailableError("the new process was killed meanwhile; try again");
      return ErrnoStatus(error, absl::StrCat("attach to new process ", pid));
    }
    auto* control = reinterpret_cast<Control*>(region->view());
    __atomic_store_n(&control->go, 1, __ATOMIC_RELEASE);
    syscall(SYS_futex, &control->go, FUTEX_WAKE, 1, nullptr, nullptr, 0);
    result_.phases.End("fork");
    Ignition ignition(*image_, plan_, pid, region->view());
    MOULT_RETURN_IF_ERROR(ignition.AwaitPrograms());
    MOULT_RETURN_IF_ERROR(CheckPagesUnchanged());
    result_.phases.Split("build", "fill pages", ignition.FillMicros());
    MOULT_RETURN_IF_ERROR(ignition.SeizeThreads());
    MOULT_RETURN_IF_ERROR(ignition.RunLatePrograms());
    MOULT_RETURN_IF_ERROR(ignition.SetStates());
    // One of several goes with the others until all are there.
    if (sandbox != nullptr) sandbox->SetChild(process_->pid, outlives_tool);
    MOULT_RETURN_IF_ERROR(ignition.Release());
    result_.phases.End("ignite");
    guard.Keep();
    result_.processes.push_back({pid, sandbox != nullptr ? sandbox->init_pid() : 0});
    return absl::OkStatus();
  }

  const RestoreOptions options_;
  std::unique_ptr<image::TemplateReader> reader_;  // of a template in a folder
  const image::ProcessImageT* image_ = nullptr;
  const image::ProcessT* process_ = nullptr;
  struct stat verified_ {};
  UniqueFd tool_pidfd_;
  OpenedFiles opened_;
  Plan plan_;
  RestoreResult result_;
  std::vector<std::unique_ptr<Sandbox>> sandboxes_;
};

}  // namespace

absl::StatusOr<RestoreResult> Restore(const std::string& dir, const RestoreOptions& options) {
  const auto run = [&]() -> absl::StatusOr<RestoreResult> {
    MOULT_RETURN_IF_ERROR(CheckOptions(options));  // before anything is opened
    return Restorer(options).RunDir(dir);
  };
  auto result = run();
  if (result.ok()) return result;
  return Annotate(result.status(), absl::StrCat("restore ", dir));
}

absl::StatusOr<RestoreResult> RestoreFrom(const LooseTemplate& from, const RestoreOptions& options) {
  const auto run = [&]() -> absl::StatusOr<RestoreResult> {
    MOULT_RETURN_IF_ERROR(CheckOptions(options));
    return Restorer(options).Run(from);
  };
  auto result = run();
  if (result.ok()) return result;
  return Annotate(result.status(), absl::StrCat("restore ", from.name));
}

}  // namespace moult::engine
