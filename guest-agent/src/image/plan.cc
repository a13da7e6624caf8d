// SPDX-License-Identifier: Apache-2.0
#include "image/plan.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "image/control.h"
#include "image/restore_context.h"
#include "image/sandbox.h"
#include "moult/base/page.h"
#include "parasite/blob.h"
#include "proc/read.h"
#include "proc/status.h"
#include "resource/credentials/capture.h"
#include "resource/fd/restore.h"
#include "resource/lock/restore.h"
#include "resource/memory/restore.h"
#include "resource/process/restore.h"
#include "resource/seccomp/restore.h"
#include "resource/signal/restore.h"
#include "resource/thread/restore.h"
#include "resource/thread/scheduling.h"
#include "resource/timer/restore.h"

namespace moult::engine {
namespace {

using ptrace::Arg;

constexpr size_t kLeaderStack = 4096;
constexpr size_t kThreadStack = 1024;
constexpr size_t kScratch = 64;

// A first guess of what the programs need, to find a hole for them before their addresses are in them.
size_t GuessSize(const image::ProcessT& process) {
  return AlignUp((1u << 20) + process.threads.size() * 8192 + process.memory->vmas.size() * 1024 +
                     process.memory->runs.size() * 64,
                 kPage);
}

// What a thread needs for its own state, in the order in which privilege goes away.
void PlanThread(const image::ProcessT& process, const image::ThreadT& thread, const Starting& starting,
                bool credentials, ptrace::ProgramBuilder& program) {
  PlanThreadState(thread, program);
  RestoreScheduling(*thread.scheduling, starting.scheduling, program);
  PlanPending(process.pid, thread.tid, thread.pending, program);
  if (credentials) PlanCredentialsAndDeathSignal(thread, starting.credentials, program);
}

class Planner {
 public:
  Planner(const image::ProcessImageT& image, const FdNumbers& numbers, const Starting& starting)
      : image_(image), process_(*image.processes.front()), numbers_(numbers), starting_(starting) {}

  // With `guess` bytes kept for the region; sets `*needed` to what it takes, and the plan holds if that fits.
  absl::StatusOr<Plan> Make(size_t guess, size_t* needed) {
    RegionLayout& layout = plan_.layout;
    MOULT_ASSIGN_OR_RETURN(layout.address, FindRegionHole(*process_.memory, starting_.maps,
                                                          guess + CopiedBytes(image_, numbers_)));
    layout.control = 0;
    layout.blob = kPage;
    layout.leader_stack_top = AlignUp(layout.blob + parasite::BlobSize(), kPage) + kLeaderStack;
    size_ = layout.leader_stack_top;
    PlanThreadsAndLate();
    // The leader's program is last: it holds the addresses of all others, and is by far the largest.
    layout.leader_program = size_;
    layout.size = guess;
    MOULT_RETURN_IF_ERROR(PlanLeader());
    *needed = AlignUp(layout.leader_program + plan_.leader.Size(), kPage);
    return std::move(plan_);
  }

 private:
  uint64_t Address(size_t offset) const { return plan_.layout.address.value() + offset; }

  void PlanThreadsAndLate() {
    RegionLayout& layout = plan_.layout;
    for (size_t i = 0; i < process_.threads.size(); ++i) {
      const image::ThreadT& thread = *process_.threads[i];
      const bool late = thread.seccomp_mode != 0;
      layout.scratch.push_back(Reserve(kScratch));
      ptrace::ProgramBuilder late_program;
      if (late) {
        PlanSeccomp(process_, thread, late_program);
        PlanCredentialsAndDeathSignal(thread, starting_.credentials, late_program);
        // They run in the order of threads, so the last of them has the last word.
        PlanDumpable(late_program);
      }
      layout.late_programs.push_back(late ? Reserve(late_program.Size() + kThreadStack) + kThreadStack : 0);
      plan_.late.push_back(std::move(late_program));
      if (i == 0) continue;
      ptrace::ProgramBuilder program;
      PlanThread(process_, thread, starting_, !late, program);
      program.set_ready_word(Address(offsetof(Control, ready)));
      program.set_park_word(Address(offsetof(Control, park)));
      RegionLayout::ThreadArea area{};
      area.stack_top = Reserve(kThreadStack) + kThreadStack;
      area.program = Reserve(program.Size());
      area.clone_args = Reserve(sizeof(clone_args));
      area.set_tid = Reserve(sizeof(pid_t));
      layout.threads.push_back(area);
      plan_.threads.push_back(std::move(program));
    }
  }

  size_t Reserve(size_t size) {
    const size_t at = size_;
    size_ = AlignUp(size_ + size, 16);
    return at;
  }

  absl::Status PlanLeader() {
    ptrace::ProgramBuilder& program = plan_.leader;
    MOULT_RETURN_IF_ERROR(PlanClearAddressSpace(*process_.memory, starting_.maps, plan_.layout, program));
    plan_.fill = PlanMappings(image_, numbers_, (plan_.layout.address + plan_.layout.size).value(), program);
    PlanMemoryMap(image_, numbers_, program);
    PlanActions(process_, program);
    PlanProcess(process_, starting_, program);
    for (size_t i = 0; i < plan_.layout.threads.size(); ++i) {
      program.Call(absl::StrCat("start thread ", process_.threads[i + 1]->tid), kPseudoClone,
                   {Address(plan_.layout.threads[i].clone_args), sizeof(clone_args)});
    }
    if (!plan_.threads.empty()) {
      program.Call("wait for threads", kPseudoWaitCount,
                   {Address(offsetof(Control, ready)), plan_.threads.size()});
    }
    PlanThreadOwners(image_, program);
    MOULT_RETURN_IF_ERROR(PlanTimers(process_, program));
    PlanPending(process_.pid, 0, process_.pending, program);
    const image::ThreadT& leader = *process_.threads.front();
    // Limits before credentials: what may be raised now may not be later.
    PlanLimits(process_, starting_, program);
    program.Call("close what the restore needed", SYS_close_range, {numbers_.first, ~0u, 0});
    PlanPosixLocks(image_, program);
    PlanThread(process_, leader, starting_, leader.seccomp_mode == 0, program);
    PlanDumpable(program);
    return absl::OkStatus();
  }

  // A change of any thread's credentials resets it.
  void PlanDumpable(ptrace::ProgramBuilder& program) const {
    program.CallMayFail("prctl(PR_SET_DUMPABLE)", SYS_prctl, {PR_SET_DUMPABLE, process_.dumpable, 0, 0, 0});
  }

  const image::ProcessImageT& image_;
  const image::ProcessT& process_;
  const FdNumbers& numbers_;
  const Starting& starting_;
  Plan plan_;
  size_t size_ = 0;
};

}  // namespace

absl::StatusOr<OpenedFiles> OpenMappedFiles(const image::ProcessImageT& image, const PageSource& pages,
                                            const Sandbox* sandbox, int first) {
  const image::ProcessT& process = *image.processes.front();
  OpenedFiles opened;
  FdNumbers& numbers = opened.numbers;
  int highest = 2;
  for (const auto& fd : process.fds) highest = std::max(highest, fd->number);
  for (const auto& file : image.open_files) {
    if (const auto* epoll = file->resource.AsEpoll()) {
      for (const auto& item : epoll->items) highest = std::max(highest, item->fd);
    }
  }
  // Nothing of the tool's own may lie in the way of the numbers that are handed out here.
  MOULT_ASSIGN_OR_RETURN(const std::vector<int> own, proc::ListNumeric("/proc/self/fd"));
  for (const int fd : own) highest = std::max(highest, fd);
  // Two of MountScope's own are open while the rest is.
  numbers.first = std::max(first, highest + 1 + (sandbox != nullptr ? 2 : 0));
  int next = numbers.first;
  const auto take = [&](UniqueFd fd) -> absl::StatusOr<int> {
    if (fd.get() != next) {
      return absl::ResourceExhaustedError(
          absl::StrCat("no room for descriptor ", next, " (the function has some up to ", highest,
                       "); raise this tool's limit of open files (ulimit -n)"));
    }
    opened.held.push_back(std::move(fd));
    return next++;
  };
  const auto copy_up = [&](int fd) { return UniqueFd(fcntl(fd, F_DUPFD_CLOEXEC, next)); };
  numbers.pages = pages;
  MOULT_ASSIGN_OR_RETURN(numbers.pages.fd, take(copy_up(pages.fd)));
  std::set<std::pair<uint32_t, bool>> wanted{{process.memory->exe, false}};
  for (const auto& vma : process.memory->vmas) {
    if (vma->file != 0xffffffffu)
      wanted.insert({vma->file, vma->kind == image::VmaKind::SharedFile && vma->may_write});
  }
  MOULT_ASSIGN_OR_RETURN(const MountScope scope, MountScope::Enter(sandbox));
  // Kept open until all are placed, so that what is opened next soon has the number that it needs.
  std::vector<UniqueFd> lower;
  for (const auto& key : wanted) {
    MOULT_ASSIGN_OR_RETURN(UniqueFd fd, OpenFileRef(*image.files[key.first], key.second ? O_RDWR : O_RDONLY));
    if (fd.get() != next) {
      UniqueFd copy = copy_up(fd.get());
      lower.push_back(std::move(fd));
      fd = std::move(copy);
    }
    MOULT_ASSIGN_OR_RETURN(numbers.files[key], take(std::move(fd)));
  }
  numbers.objects_rw = next;
  numbers.objects_ro = next + static_cast<int>(image.objects.size());
  numbers.free = numbers.objects_ro + static_cast<int>(image.objects.size());
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  const uint64_t needed =
      static_cast<uint64_t>(numbers.free) + image.open_files.size() + image.pipes.size() * 2 + 16;
  if (needed > limit.rlim_cur) {
    return absl::ResourceExhaustedError(absl::StrCat("the restore needs descriptors up to ", needed,
                                                     ", the limit is ", limit.rlim_cur,
                                                     "; raise this tool's limit of open files (ulimit -n)"));
  }
  return opened;
}

absl::StatusOr<image::SchedulingT> OwnScheduling() {
  MOULT_ASSIGN_OR_RETURN(const auto scheduling, CaptureScheduling(getpid()));
  scheduling->timer_slack_ns = static_cast<uint64_t>(prctl(PR_GET_TIMERSLACK));
  return *scheduling;
}

std::vector<image::Limit> OwnLimits() {
  std::vector<image::Limit> limits;
  for (int resource = 0; resource < RLIMIT_NLIMITS; ++resource) {
    rlimit limit{};
    getrlimit(static_cast<__rlimit_resource_t>(resource), &limit);  // cannot fail: a known one, of our own
    limits.emplace_back(limit.rlim_cur, limit.rlim_max);
  }
  return limits;
}

absl::StatusOr<Starting> DescribeSelf() {
  Starting self;
  MOULT_ASSIGN_OR_RETURN(const std::string maps, proc::ReadFile("/proc/self/maps"));
  MOULT_ASSIGN_OR_RETURN(self.maps, proc::ParseMaps(maps));
  MOULT_ASSIGN_OR_RETURN(self.scheduling, OwnScheduling());
  MOULT_ASSIGN_OR_RETURN(const std::string text, proc::ReadFile("/proc/self/status"));
  MOULT_ASSIGN_OR_RETURN(const proc::Status status, proc::ParseStatus(text));
  self.credentials = *CredentialsOf(status);
  self.credentials.securebits = static_cast<uint32_t>(prctl(PR_GET_SECUREBITS));
  self.limits = OwnLimits();
  self.personality = static_cast<uint32_t>(syscall(SYS_personality, 0xffffffff));
  self.thp_disable = prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) > 0;
  return self;
}

absl::StatusOr<Plan> MakePlan(const image::ProcessImageT& image, const FdNumbers& numbers,
                              const Starting& starting) {
  size_t guess = GuessSize(*image.processes.front());
  for (;;) {
    size_t needed = 0;
    MOULT_ASSIGN_OR_RETURN(Plan plan, Planner(image, numbers, starting).Make(guess, &needed));
    if (needed <= guess) return plan;
    guess = needed;
  }
}

void WriteRegion(const image::ProcessT& process, const Plan& plan, std::byte* view) {
  const RegionLayout& layout = plan.layout;
  const auto address = [&](size_t offset) { return layout.address + offset; };
  const auto put = [&](size_t offset, const std::vector<std::byte>& bytes) {
    std::copy(bytes.begin(), bytes.end(), view + offset);
  };
  std::memset(view, 0, sizeof(Control));
  std::memcpy(view + layout.blob, parasite::BlobData(), parasite::BlobSize());
  put(layout.leader_program, plan.leader.Build(address(layout.leader_program)));
  for (size_t i = 0; i < plan.threads.size(); ++i) {
    const RegionLayout::ThreadArea& area = layout.threads[i];
    put(area.program, plan.threads[i].Build(address(area.program)));
    // The parasite's clone pops its program from the new stack.
    const uint64_t program = address(area.program).value();
    std::memcpy(view + area.stack_top - sizeof(program), &program, sizeof(program));
    clone_args args{};
    args.flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
    args.stack = address(area.stack_top - kThreadStack).value();
    args.stack_size = kThreadStack - sizeof(program);
    args.set_tid = address(area.set_tid).value();
    args.set_tid_size = 1;
    std::memcpy(view + area.clone_args, &args, sizeof(args));
    const pid_t tid = process.threads[i + 1]->tid;
    std::memcpy(view + area.set_tid, &tid, sizeof(tid));
  }
  for (size_t i = 0; i < plan.late.size(); ++i) {
    if (layout.late_programs[i] != 0)
      put(layout.late_programs[i], plan.late[i].Build(address(layout.late_programs[i])));
  }
}

}  // namespace moult::engine
