// SPDX-License-Identifier: Apache-2.0
#include "function/exec.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "function/record.h"
#include "image/orphan.h"

namespace moult::agent {
namespace {

constexpr char kDefaultPath[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

// What a new process tells its maker through a pipe when it cannot become the program.
struct Failure {
  int error;
  char what[60];
};

[[noreturn]] void Fail(int report, const char* what) {
  Failure failure{errno, {}};
  std::strncpy(failure.what, what, sizeof(failure.what) - 1);
  (void)!write(report, &failure, sizeof(failure));
  _exit(127);
}

std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (const std::string& text : strings) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

std::vector<std::string> Candidates(const Program& program) {
  const std::string& name = program.argv.front();
  if (absl::StrContains(name, '/')) return {name};
  absl::string_view path = kDefaultPath;
  for (const std::string& entry : program.env) {
    if (absl::StartsWith(entry, "PATH=")) path = absl::string_view(entry).substr(5);
  }
  std::vector<std::string> candidates;
  for (const absl::string_view folder : absl::StrSplit(path, ':')) {
    candidates.push_back(absl::StrCat(folder.empty() ? "." : folder, "/", name));
  }
  return candidates;
}

void EnterSandbox(const Program& program, int report) {
  // The time namespace by its own descriptor: of a pidfd only the process's own is taken, not its children's.
  if (program.time_namespace >= 0 && setns(program.time_namespace, CLONE_NEWTIME) < 0)
    Fail(report, "enter the time namespace");
  if (setns(program.sandbox_init, CLONE_NEWNS | CLONE_NEWIPC) < 0) Fail(report, "enter the sandbox");
}

void SetDescriptors(int report) {
  const int null = open("/dev/null", O_RDONLY);
  if (null < 0) Fail(report, "open /dev/null");
  const std::string log = absl::StrCat(kSharedTarget, "/log");
  const int output = open(log.c_str(), O_WRONLY | O_APPEND);
  if (output < 0) Fail(report, "open the log");
  if (dup2(null, 0) < 0 || dup2(output, 1) < 0 || dup2(output, 2) < 0) Fail(report, "place descriptors");
  // Whatever else the agent has open ends with exec, `report` too.
  if (syscall(SYS_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC) < 0) Fail(report, "close_range");
}

void ResetSignals() {
  for (int number = 1; number < NSIG; ++number) signal(number, SIG_DFL);
  const uint64_t none = 0;
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, nullptr, sizeof(none));
}

[[noreturn]] void BecomeProgram(const Program& program, int report) {
  // Above the numbers that the program gets.
  report = fcntl(report, F_DUPFD_CLOEXEC, 10);
  EnterSandbox(program, report);
  if (setsid() < 0) Fail(report, "setsid");
  SetDescriptors(report);
  umask(022);
  if (setgroups(0, nullptr) < 0 || setresgid(program.gid, program.gid, program.gid) < 0)
    Fail(report, "set its group");
  if (setresuid(program.uid, program.uid, program.uid) < 0) Fail(report, "set its user");
  if (chdir(program.cwd.empty() ? "/" : program.cwd.c_str()) < 0) Fail(report, "enter its working directory");
  ResetSignals();
  const auto argv = Pointers(program.argv);
  const auto env = Pointers(program.env);
  int error = ENOENT;
  for (const std::string& candidate : Candidates(program)) {
    execve(candidate.c_str(), argv.data(), env.data());
    // One that may not be run is said to be so, should none be found after it.
    if (errno != ENOENT && errno != ENOTDIR) error = errno;
  }
  errno = error;
  Fail(report, "exec");
}

clone_args CloneArgs(const Program& program) {
  clone_args args{};
  args.exit_signal = SIGCHLD;
  if (program.cgroup >= 0) {
    args.flags |= CLONE_INTO_CGROUP;
    args.cgroup = static_cast<uint64_t>(program.cgroup);
  }
  return args;
}

// So that the sandbox's init takes the program in.
absl::Status StartOrphan(const Program& program, int report, Started* started) {
  engine::Orphan orphan;
  const int error = engine::CloneOrphan(CloneArgs(program), 0, [&] { BecomeProgram(program, report); }, &orphan);
  if (error != 0) return CloneStatus(error, "make its process");
  started->pidfd = std::move(orphan.pidfd);
  started->pid = orphan.pid;
  started->inner_pid = orphan.inner_pid;
  return absl::OkStatus();
}

absl::Status StartChild(const Program& program, int report, Started* started) {
  int pidfd = -1;
  clone_args args = CloneArgs(program);
  args.flags |= CLONE_PIDFD;
  args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
  const long pid = syscall(SYS_clone3, &args, sizeof(args));
  if (pid == 0) BecomeProgram(program, report);
  if (pid < 0) return CloneStatus(errno, "make its process");
  started->pidfd.Reset(pidfd);
  started->pid = static_cast<pid_t>(pid);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Started> StartProgram(const Program& program, bool orphan) {
  const std::string& name = program.argv.front();
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) return ErrnoStatus("pipe");
  const UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  const UniqueFd own(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
  if (!own.valid()) return ErrnoStatus("open our own process");
  // For the children we make; we ourselves stay where we are.
  if (setns(program.sandbox_init, CLONE_NEWPID) < 0) return ErrnoStatus("enter the sandbox's pid namespace");
  Started started;
  const absl::Status status =
      orphan ? StartOrphan(program, writer.get(), &started) : StartChild(program, writer.get(), &started);
  if (setns(own.get(), CLONE_NEWPID) < 0) return ErrnoStatus("go back to our own pid namespace");
  if (!status.ok()) return Annotate(status, absl::StrCat("start ", name));
  writer.Reset();
  Failure failure{};
  ssize_t n = 0;
  while ((n = read(reader.get(), &failure, sizeof(failure))) < 0 && errno == EINTR) {
  }
  if (n == sizeof(failure)) {
    failure.what[sizeof(failure.what) - 1] = '\0';
    if (!orphan) waitpid(started.pid, nullptr, 0);
    const bool of_program = std::strcmp(failure.what, "exec") == 0;
    const absl::Status failed = ErrnoStatus(failure.error, of_program ? absl::StrCat("start ", name)
                                                                      : absl::StrCat("start ", name, ": ", failure.what));
    if (!of_program || failure.error != EACCES) return failed;
    return WithRemedy(failed, "see that it is a file that its user may execute (chmod), on a file system that is not mounted noexec");
  }
  return started;
}

}  // namespace moult::agent
