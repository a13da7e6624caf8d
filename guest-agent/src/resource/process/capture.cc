// SPDX-License-Identifier: Apache-2.0
#include "resource/process/capture.h"

#include <linux/membarrier.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <ctime>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "moult/base/page.h"
#include "proc/limits.h"
#include "proc/read.h"
#include "proc/values.h"
#include "resource/process/membarrier.h"

namespace moult::engine {
namespace {

constexpr int kGetMemoryMerge = 68;  // PR_GET_MEMORY_MERGE, Linux 6.4; Debian 12's headers are older

absl::StatusOr<bool> SameNamespace(pid_t pid, const char* kind) {
  MOULT_ASSIGN_OR_RETURN(const std::string theirs, proc::ReadLink(absl::StrCat("/proc/", pid, "/ns/", kind)));
  MOULT_ASSIGN_OR_RETURN(const std::string ours, proc::ReadLink(absl::StrCat("/proc/self/ns/", kind)));
  return theirs == ours;
}

bool IsNamespaceInit(pid_t pid) {
  auto text = proc::ReadFile(absl::StrCat("/proc/", pid, "/status"));
  if (!text.ok()) return false;
  auto status = proc::ParseStatus(*text);
  return status.ok() && status->ns_pid.size() == 2 && status->ns_pid.back() == 1;
}

// A directory the process stands in: by name, or as one that was removed.
absl::StatusOr<uint32_t> CaptureDirectoryLink(CaptureContext& context, const char* link, bool* removed) {
  const std::string path = context.ProcPath(link);
  MOULT_ASSIGN_OR_RETURN(std::string target, proc::ReadLink(path));
  struct stat st {};
  if (stat(path.c_str(), &st) < 0) return ErrnoStatus(absl::StrCat("stat ", path));
  if (st.st_nlink == 0) {
    if (removed == nullptr)
      return Refuse(absl::StrCat("its ", link, " directory was removed"), "restart the process");
    *removed = true;
    // Kept for its name and mode only: it is made and removed again.
    auto file = std::make_unique<image::FileRefT>();
    file->path = std::string(absl::StripSuffix(target, " (deleted)"));
    file->mode = st.st_mode;
    file->content = image::FileContent::Any;
    context.image.files.push_back(std::move(file));
    return static_cast<uint32_t>(context.image.files.size() - 1);
  }
  return context.files.Add(target, st, image::FileContent::Any, absl::StrCat(link, " directory"));
}

}  // namespace

absl::Status CheckCapturable(pid_t pid) {
  if (pid == getpid() || pid == getppid())
    return Refuse("that is this tool itself, or what started it", "name another process");
  if (pid == 1) return Refuse("pid 1 is the system's init", "name another process");
  auto text = proc::ReadFile(absl::StrCat("/proc/", pid, "/status"));
  if (!text.ok()) {
    if (absl::IsNotFound(text.status())) return absl::NotFoundError("no such process; check the pid");
    return text.status();
  }
  MOULT_ASSIGN_OR_RETURN(const proc::Status status, proc::ParseStatus(*text));
  if (!status.ns_pid.empty() && status.ns_pid.back() == 1) {
    return Refuse("it is pid 1 of its pid namespace", "name the process that runs under it");
  }
  if (status.tgid != pid)
    return Refuse(absl::StrCat("that is a thread of process ", status.tgid),
                  absl::StrCat("name ", status.tgid));
  if (status.state == 'Z' || status.state == 'X')
    return Refuse("it has ended or its first thread has (zombie)", "nothing is left to capture");
  if (status.kthread || (status.vm_size == 0 && status.ppid == 2))
    return Refuse("it is a kernel thread", "name a user process");
  if (status.tracer_pid != 0)
    return Refuse(absl::StrCat("it is traced (ptrace) by process ", status.tracer_pid),
                  "detach the debugger first");
  return absl::OkStatus();
}

absl::Status CheckThreadAlone(pid_t pid, pid_t tid) {
  auto children = proc::ReadFile(absl::StrCat("/proc/", pid, "/task/", tid, "/children"));
  if (!children.ok()) {
    if (!absl::IsNotFound(children.status())) return children.status();
    if (access(absl::StrCat("/proc/", pid, "/task/", tid).c_str(), F_OK) < 0) return absl::OkStatus();  // it has ended
    return Refuse("this kernel does not tell whether it has child processes", "use one built with CONFIG_PROC_CHILDREN=y (Debian's are)");
  }
  const absl::string_view trimmed = absl::StripSuffix(*children, " ");
  if (trimmed.empty()) return absl::OkStatus();
  return Refuse(absl::StrCat("it has child processes (", trimmed, "): process trees cannot be captured yet"),
                "capture it when they have ended");
}

absl::Status CheckAlone(const CaptureContext& context) {
  if (context.before.is_plain()) return absl::OkStatus();
  for (const ptrace::TracedThread& thread : context.tracee.threads()) {
    MOULT_RETURN_IF_ERROR(CheckThreadAlone(context.pid(), thread.tid));
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> CheckNamespaces(const CaptureContext& context, std::string* root) {
  for (const char* kind : {"user", "net", "uts", "cgroup"}) {
    MOULT_ASSIGN_OR_RETURN(const bool same, SameNamespace(context.pid(), kind));
    if (!same)
      return Refuse(absl::StrCat("it lives in another ", kind, " namespace"),
                    absl::StrCat("run this tool inside that namespace (nsenter -t ", context.pid(), ")"));
  }
  MOULT_ASSIGN_OR_RETURN(const bool same_pid, SameNamespace(context.pid(), "pid"));
  bool sandboxed = !same_pid;
  for (const char* kind : {"mnt", "ipc", "time"}) {
    MOULT_ASSIGN_OR_RETURN(const bool same, SameNamespace(context.pid(), kind));
    if (!same && same_pid)
      return Refuse(absl::StrCat("it lives in another ", kind, " namespace"),
                    absl::StrCat("run this tool inside that namespace (nsenter -t ", context.pid(), ")"));
    sandboxed |= !same;
  }
  if (!sandboxed) return false;
  struct stat theirs {};
  struct stat ours {};
  // The process itself may have changed its root; its init has not.
  const pid_t parent = context.status.ppid;
  *root = absl::StrCat("/proc/", IsNamespaceInit(parent) ? parent : context.pid(), "/root");
  if (stat(absl::StrCat(*root, "/").c_str(), &theirs) < 0 || stat("/", &ours) < 0)
    return ErrnoStatus(absl::StrCat("stat ", *root));
  if (theirs.st_dev != ours.st_dev || theirs.st_ino != ours.st_ino) {
    return Refuse("it lives in a container with another root file system",
                  absl::StrCat("run this tool inside it (nsenter -a -t ", context.pid(), ")"));
  }
  if (context.status.ns_pid.size() > 2)
    return Refuse("it lives in nested pid namespaces", "run this tool in the one around it");
  return true;
}

ProcessQuestions AskProcess(ptrace::ProgramBuilder& program) {
  using ptrace::Arg;
  ProcessQuestions ask{};
  ask.brk_op = program.Call("brk", SYS_brk, {0});
  ask.dumpable_op = program.Call("prctl(PR_GET_DUMPABLE)", SYS_prctl, {PR_GET_DUMPABLE});
  ask.subreaper = program.AddBuffer(sizeof(int));
  program.Call("prctl(PR_GET_CHILD_SUBREAPER)", SYS_prctl,
               {PR_GET_CHILD_SUBREAPER, Arg::Data(ask.subreaper)});
  ask.membarrier_op = program.CallMayFail("membarrier", SYS_membarrier, {kMembarrierGetRegistrations, 0, 0});
  // Before 6.3 the only way to learn of a registration is to use it.
  ask.membarrier_private_op =
      program.CallMayFail("membarrier", SYS_membarrier, {MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0});
  // MCL_FUTURE shows in what becomes of a new mapping: the kernel refuses MADV_DONTNEED for locked memory.
  const size_t page =
      program.Call("mmap", SYS_mmap, {0, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0});
  ask.new_page_resident = program.AddBuffer(1);
  program.CallMayFail("mincore", SYS_mincore, {Arg::Result(page), kPage, Arg::Data(ask.new_page_resident)});
  ask.new_page_locked_op =
      program.CallMayFail("madvise", SYS_madvise, {Arg::Result(page), kPage, MADV_DONTNEED});
  program.Call("munmap", SYS_munmap, {Arg::Result(page), kPage});
  // Reads how much of a local descriptor table there is.
  const size_t entry = program.AddBuffer(sizeof(uint64_t));
  ask.ldt_op = program.CallMayFail("modify_ldt", SYS_modify_ldt, {0, Arg::Data(entry), sizeof(uint64_t)});
  ask.memory_merge_op = program.CallMayFail("prctl(PR_GET_MEMORY_MERGE)", SYS_prctl, {kGetMemoryMerge, 0, 0, 0, 0});
  ask.clocks = program.AddBuffer(3 * sizeof(timespec));
  size_t at = ask.clocks;
  for (const clockid_t clock : {CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_REALTIME}) {
    program.Call("clock_gettime", SYS_clock_gettime, {clock, Arg::Data(at)});
    at += sizeof(timespec);
  }
  return ask;
}

absl::Status TakeAnswers(const ProcessQuestions& questions, const ptrace::ProgramResult& result,
                         CaptureContext& context) {
  if (result.result(questions.ldt_op) > 0)
    return Refuse("it has a local descriptor table (modify_ldt)", "run it without");
  if (result.result(questions.memory_merge_op) > 0)
    context.Note("comes back without merging of its pages (PR_SET_MEMORY_MERGE)");
  context.process.memory->brk = static_cast<uint64_t>(result.result(questions.brk_op));
  context.process.dumpable = static_cast<uint32_t>(result.result(questions.dumpable_op));
  context.process.child_subreaper = result.Data<int>(questions.subreaper) != 0;
  const int64_t registrations = result.result(questions.membarrier_op);
  if (registrations > 0) {
    context.process.memory->membarrier = static_cast<uint32_t>(registrations);
  } else if (registrations < 0 && result.result(questions.membarrier_private_op) == 0) {
    context.process.memory->membarrier = MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED;
  }
  if (result.result(questions.new_page_locked_op) == -EINVAL) {
    const bool resident = (result.Data<uint8_t>(questions.new_page_resident) & 1) != 0;
    context.process.memory->lock_future = MCL_FUTURE | (resident ? 0u : MCL_ONFAULT);
  }
  const auto ns = [&](size_t i) {
    const auto time = result.Data<timespec>(questions.clocks + i * sizeof(timespec));
    return time.tv_sec * 1'000'000'000 + time.tv_nsec;
  };
  context.image.monotonic_ns = ns(0);
  context.image.boottime_ns = ns(1);
  context.image.realtime_ns = ns(2);
  return absl::OkStatus();
}

absl::Status CaptureProcess(CaptureContext& context) {
  image::ProcessT& process = context.process;
  const proc::Status& status = context.status;
  const auto innermost = [](const std::vector<pid_t>& ids, pid_t otherwise) {
    return ids.empty() ? otherwise : ids.back();
  };
  process.pid = innermost(status.ns_tgid, status.tgid);
  process.process_group = innermost(status.ns_pgid, context.stat.pgrp);
  process.session = innermost(status.ns_sid, context.stat.session);
  process.umask = status.umask;
  if (context.stat.tty_nr != 0) context.Note("comes back without its controlling terminal");
  MOULT_ASSIGN_OR_RETURN(process.cwd, CaptureDirectoryLink(context, "cwd", &process.cwd_deleted));
  MOULT_ASSIGN_OR_RETURN(const std::string root, proc::ReadLink(context.ProcPath("root")));
  if (root != "/") {
    MOULT_ASSIGN_OR_RETURN(process.root, CaptureDirectoryLink(context, "root", nullptr));
  }
  MOULT_ASSIGN_OR_RETURN(const std::string limits_text, proc::ReadFile(context.ProcPath("limits")));
  MOULT_ASSIGN_OR_RETURN(const proc::Limits limits, proc::ParseLimits(limits_text));
  for (const proc::Limit& limit : limits) process.limits.emplace_back(limit.soft, limit.hard);
  MOULT_ASSIGN_OR_RETURN(const std::string personality, proc::ReadFile(context.ProcPath("personality")));
  MOULT_ASSIGN_OR_RETURN(process.personality, proc::ParseHexFile("personality", personality));
  MOULT_ASSIGN_OR_RETURN(const std::string score, proc::ReadFile(context.ProcPath("oom_score_adj")));
  MOULT_ASSIGN_OR_RETURN(process.oom_score_adj, proc::ParseDecimalFile("oom_score_adj", score));
  return absl::OkStatus();
}

}  // namespace moult::engine
