// SPDX-License-Identifier: Apache-2.0
#include "image/restore.h"

#include <algorithm>
#include <climits>
#include <csignal>
#include <optional>

#include <linux/futex.h>
#include <malloc.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "image/builder.h"
#include "image/control.h"
#include "image/files.h"
#include "image/host.h"
#include "image/ignition.h"
#include "image/new_process.h"
#include "image/orphan.h"
#include "image/place.h"
#include "image/plan.h"
#include "image/region.h"
#include "image/sandbox.h"
#include "moult/protocol/template_reader.h"
#include "ptrace/wait.h"
#include "resource/private_file/private_file.h"
#include "resource/thread/scheduling.h"

namespace moult::engine {
namespace {

absl::Status CheckOptions(const RestoreOptions& options) {
  if (options.count < 1 || (options.count > 1 && !options.sandbox)) {
    return absl::InvalidArgumentError(absl::StrCat("cannot make ", options.count, " processes with the same pid; use --sandbox"));
  }
  if (options.prepared != nullptr && (options.count != 1 || !options.sandbox)) {
    return absl::InvalidArgumentError("a prepared sandbox takes one process");
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

// What a restore begins with, and can find done already.
struct Start {
  Starting self;
  FdNumbers numbers;
  Plan plan;
};

bool SameLimits(const std::vector<image::Limit>& a, const std::vector<image::Limit>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const image::Limit& x, const image::Limit& y) { return x.soft() == y.soft() && x.hard() == y.hard(); });
}

}  // namespace

class Restorer::Impl {
 public:
  explicit Impl(const LooseTemplate& from) : from_(from), process_(*from.image.processes.front()) {}

  static absl::StatusOr<RestoreResult> RunDir(const std::string& dir, const RestoreOptions& options);

  const std::string& name() const { return from_.name; }

  // Of a template in a folder: its pages must be what was verified to the end.
  void Watch(const image::TemplateReader* reader, const struct stat& verified) {
    reader_ = reader;
    verified_ = verified;
  }

  absl::StatusOr<RestoreResult> Run(const RestoreOptions& options, Phases phases = {}) {
    options_ = options;
    result_ = {};
    opened_ = {};
    sandboxes_.clear();
    result_.phases = std::move(phases);
    MOULT_RETURN_IF_ERROR(Begin());
    for (int i = 0; i < options_.count; ++i) {
      // On an error the sandboxes made so far end with all in them.
      MOULT_RETURN_IF_ERROR(RestoreOne());
    }
    for (auto& sandbox : sandboxes_) sandbox->Keep();
    opened_ = {};
    result_.total_us = result_.phases.TotalMicros();
    result_.notes = from_.image.notes;
    return std::move(result_);
  }

  absl::Status GetReady() {
    if (!start_.has_value() || next_ != nullptr) return absl::OkStatus();
    MOULT_ASSIGN_OR_RETURN(next_, Region::Create(start_->plan.layout));
    WriteRegion(process_, start_->plan, next_->view());
    return absl::OkStatus();
  }

 private:
  absl::Status Begin() {
    if (!tool_pidfd_.valid()) {
      ptrace::BlockChildSignal();
      RaiseFileLimit();
      // Memory that was used once stays: to give it back and fault it in again costs more.
      mallopt(M_TRIM_THRESHOLD, INT_MAX);
      mallopt(M_MMAP_THRESHOLD, 64 << 20);
      mallopt(M_TOP_PAD, 1 << 20);
      MOULT_ASSIGN_OR_RETURN(const auto host, DescribeHost());
      MOULT_RETURN_IF_ERROR(CheckRequirements(*from_.manifest.requirements, *host));
      tool_pidfd_.Reset(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
      if (!tool_pidfd_.valid()) return ErrnoStatus("open our own process");
    }
    if (!from_.image.private_files.empty()) {
      MOULT_RETURN_IF_ERROR(RestorePrivateFiles(from_.image, from_.pages, options_.prepared, options_.cgroup));
      result_.phases.End("private files");
    }
    {
      MOULT_ASSIGN_OR_RETURN(const MountScope scope, MountScope::Enter(options_.prepared));
      MOULT_RETURN_IF_ERROR(CheckFiles(from_.image));
    }
    if (!options_.sandbox) MOULT_RETURN_IF_ERROR(CheckPlaceHere(from_.image));
    result_.phases.End("check");
    MOULT_ASSIGN_OR_RETURN(opened_, OpenMappedFiles(from_.image, from_.pages, options_.prepared, start_.has_value() ? start_->numbers.first : 0));
    MOULT_RETURN_IF_ERROR(PlanUnlessPlanned());
    result_.phases.End("plan");
    return absl::OkStatus();
  }

  // The plan holds as long as a fork of this process begins as the first did. What others can change is looked at.
  absl::Status PlanUnlessPlanned() {
    if (start_.has_value() && start_->numbers == opened_.numbers) {
      MOULT_ASSIGN_OR_RETURN(const image::SchedulingT scheduling, OwnScheduling());
      const bool same = StartsAlike(start_->self.scheduling, scheduling) && SameLimits(OwnLimits(), start_->self.limits);
      // Its place may be taken by now.
      if (same && GetReady().ok()) return absl::OkStatus();
    }
    next_.reset();
    start_.reset();
    MOULT_ASSIGN_OR_RETURN(Starting self, DescribeSelf());
    MOULT_ASSIGN_OR_RETURN(Plan plan, MakePlan(from_.image, opened_.numbers, self));
    start_ = Start{std::move(self), opened_.numbers, std::move(plan)};
    return absl::OkStatus();
  }

  // The parent must be the one that the process keeps, not this tool, which soon ends: in a sandbox its init,
  // which reaps and ends with it; elsewhere where a parent-death signal says that it matters.
  bool WantsLastingParent() const {
    return options_.sandbox || std::any_of(process_.threads.begin(), process_.threads.end(), [](const auto& thread) { return thread->parent_death_signal != 0; });
  }

  // The middle process's pid: in a new pid namespace the next free one may be one that the function wants.
  pid_t SparePid() const {
    if (!options_.sandbox) return 0;
    pid_t spare = 2;
    while (std::any_of(process_.threads.begin(), process_.threads.end(), [spare](const auto& thread) { return thread->tid == spare; })) ++spare;
    return spare;
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
    args.set_tid = reinterpret_cast<uint64_t>(&process_.pid);
    args.set_tid_size = 1;
    // All signals, glibc's own two among them, which its functions leave out. Not SIGTRAP: the program ends in
    // one, and forced on a thread that blocks it it would lose its handler.
    const uint64_t all = ~(uint64_t{1} << (SIGTRAP - 1));
    uint64_t old = 0;
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &old, sizeof(all));
    const BuilderInput input{&from_.image, &start_->plan, &opened_.numbers, tool_pidfd_.get(), sandbox != nullptr ? sandbox->handles() : SandboxHandles{}};
    const auto build = [&] { RunBuilder(input, region.view()); };
    pid_t pid = -1;
    int error = 0;
    if (WantsLastingParent()) {
      Orphan orphan;
      error = CloneOrphan(args, SparePid(), build, &orphan);
      pid = orphan.pid;
    } else {
      pid = static_cast<pid_t>(syscall(SYS_clone3, &args, sizeof(args)));
      if (pid == 0) build();
      error = pid < 0 ? errno : 0;
    }
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &old, nullptr, sizeof(old));
    if (sandbox != nullptr && setns(tool_pidfd_.get(), CLONE_NEWPID) < 0) {
      return ErrnoStatus("go back to our own pid namespace");
    }
    if (error == 0) return pid;
    if (error == EEXIST) return PidTaken(process_.pid);
    if (error == EPERM) return absl::PermissionDeniedError(absl::StrCat("make a process with pid ", process_.pid, ": EPERM; run as root or with CAP_CHECKPOINT_RESTORE"));
    if (error == EINVAL) return absl::FailedPreconditionError(absl::StrCat("make a process with pid ", process_.pid, ": EINVAL; the pid is above kernel.pid_max here"));
    return CloneStatus(error, absl::StrCat("make a process with pid ", process_.pid));
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
      MOULT_RETURN_IF_ERROR(sandbox->SetClocks(from_.image.monotonic_ns, from_.image.boottime_ns));
      result_.phases.End("sandbox");
    } else if (options_.sandbox) {
      MOULT_ASSIGN_OR_RETURN(made, Sandbox::Create(from_.image.monotonic_ns, from_.image.boottime_ns));
      sandbox = made.get();
      result_.phases.End("sandbox");
    }
    const absl::Status status = MakeProcess(sandbox, /*outlives_tool=*/made == nullptr);
    if (!status.ok() && sandbox != nullptr && sandbox->HasEnded()) {
      return absl::UnavailableError(absl::StrCat("the sandbox's init was killed meanwhile (", WithoutRemedy(status), "); try again"));
    }
    // What was there when it was looked at and is not now: a file, or the process itself.
    if (absl::IsNotFound(status)) return absl::UnavailableError(status.message());
    MOULT_RETURN_IF_ERROR(status);
    if (made != nullptr) sandboxes_.push_back(std::move(made));
    return absl::OkStatus();
  }

  absl::Status MakeProcess(Sandbox* sandbox, bool outlives_tool) {
    MOULT_RETURN_IF_ERROR(GetReady());
    const std::unique_ptr<Region> region = std::move(next_);
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
    Ignition ignition(from_.image, start_->plan, pid, region->view());
    MOULT_RETURN_IF_ERROR(ignition.AwaitPrograms());
    MOULT_RETURN_IF_ERROR(CheckPagesUnchanged());
    result_.phases.Split("build", "fill pages", ignition.FillMicros());
    MOULT_RETURN_IF_ERROR(ignition.SeizeThreads());
    MOULT_RETURN_IF_ERROR(ignition.RunLatePrograms());
    MOULT_RETURN_IF_ERROR(ignition.SetStates());
    // One of several goes with the others until all are there.
    if (sandbox != nullptr) sandbox->SetChild(process_.pid, outlives_tool);
    MOULT_RETURN_IF_ERROR(ignition.Release());
    result_.phases.End("ignite");
    guard.Keep();
    result_.processes.push_back({pid, sandbox != nullptr ? sandbox->init_pid() : 0});
    return absl::OkStatus();
  }

  const LooseTemplate from_;
  const image::ProcessT& process_;
  const image::TemplateReader* reader_ = nullptr;  // of a template in a folder
  struct stat verified_ {};
  UniqueFd tool_pidfd_;
  std::optional<Start> start_;
  std::unique_ptr<Region> next_;  // written for the next process
  // Of this run.
  RestoreOptions options_;
  OpenedFiles opened_;
  RestoreResult result_;
  std::vector<std::unique_ptr<Sandbox>> sandboxes_;
};

Restorer::Restorer(const LooseTemplate& from) : impl_(std::make_unique<Impl>(from)) {}
Restorer::~Restorer() = default;
void Restorer::GetReady() { (void)impl_->GetReady(); }  // what it could not do the next run tries again

absl::StatusOr<RestoreResult> Restorer::Run(const RestoreOptions& options) {
  absl::Status status = CheckOptions(options);  // before anything is opened
  if (status.ok()) {
    auto result = impl_->Run(options);
    if (result.ok()) return result;
    status = result.status();
  }
  return Annotate(status, absl::StrCat("restore ", impl_->name()));
}

absl::StatusOr<RestoreResult> Restorer::Impl::RunDir(const std::string& dir, const RestoreOptions& options) {
  MOULT_RETURN_IF_ERROR(CheckOptions(options));
  Phases phases;
  MOULT_ASSIGN_OR_RETURN(const auto reader, image::TemplateReader::Open(dir));
  phases.End("read image");
  struct stat verified {};
  if (fstat(reader->pages_fd(), &verified) < 0) return ErrnoStatus("stat pages");
  MOULT_RETURN_IF_ERROR(reader->VerifyPages());
  phases.End("verify pages");
  Impl impl({dir, reader->image(), reader->manifest(), {.fd = reader->pages_fd()}});
  impl.Watch(reader.get(), verified);
  return impl.Run(options, std::move(phases));
}

absl::StatusOr<RestoreResult> Restore(const std::string& dir, const RestoreOptions& options) {
  auto result = Restorer::Impl::RunDir(dir, options);
  if (result.ok()) return result;
  return Annotate(result.status(), absl::StrCat("restore ", dir));
}

absl::StatusOr<RestoreResult> RestoreFrom(const LooseTemplate& from, const RestoreOptions& options) {
  return Restorer(from).Run(options);
}

}  // namespace moult::engine
