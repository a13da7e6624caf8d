// SPDX-License-Identifier: Apache-2.0
#include "process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>

#include "absl/strings/str_join.h"
#include "moult/base/status.h"

namespace moult::ctl {
namespace {

std::vector<char*> Pointers(const std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (const std::string& text : texts) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

// In the child.
[[noreturn]] void Exec(const std::vector<char*>& argv, const std::vector<char*>& env, pid_t parent, int out,
                       int error) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  signal(SIGPIPE, SIG_DFL);
  if (out >= 0) dup2(out, STDOUT_FILENO);
  if (error >= 0) dup2(error, STDERR_FILENO);
  for (size_t i = 0; i + 1 < env.size(); ++i) putenv(env[i]);
  execvp(argv[0], argv.data());
  dprintf(STDERR_FILENO, "%s: cannot be run\n", argv[0]);
  _exit(127);
}

absl::StatusOr<pid_t> Fork(const std::vector<std::string>& argv, const std::vector<std::string>& env, int out,
                           int error) {
  const std::vector<char*> arguments = Pointers(argv), variables = Pointers(env);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) return ErrnoStatus(absl::StrCat("start ", argv[0], ": fork"));
  if (pid == 0) Exec(arguments, variables, parent, out, error);
  return pid;
}

}  // namespace

absl::StatusOr<Child> Child::Start(const std::vector<std::string>& argv, const std::vector<std::string>& env,
                                   const std::string& log) {
  UniqueFd out;
  if (!log.empty()) {
    out.Reset(open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    if (!out.valid()) return ErrnoStatus(absl::StrCat("open ", log));
  }
  MOULT_ASSIGN_OR_RETURN(const pid_t pid, Fork(argv, env, out.get(), out.get()));
  return Child(pid, UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0))));
}

Child::~Child() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);  // not reaped yet, so the number is still its own
  waitpid(pid_, nullptr, 0);
}

bool Child::ended() const {
  pollfd wait{pidfd_.get(), POLLIN, 0};
  return poll(&wait, 1, 0) == 1;
}

void Child::Terminate() const { kill(pid_, SIGTERM); }

absl::StatusOr<std::string> Capture(const std::vector<std::string>& argv, Progress* progress) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoStatus("pipe2");
  UniqueFd read_end(ends[0]), write_end(ends[1]);
  MOULT_ASSIGN_OR_RETURN(const pid_t pid, Fork(argv, {}, write_end.get(), -1));
  write_end.Reset();
  std::string text;
  std::array<char, 4096> chunk;
  for (ssize_t got = -1; got != 0;) {
    pollfd wait{read_end.get(), POLLIN, 0};
    if (progress != nullptr && poll(&wait, 1, Progress::kEveryMs) == 0) {
      progress->Tick();
      continue;
    }
    got = read(read_end.get(), chunk.data(), chunk.size());
    if (got > 0) text.append(chunk.data(), static_cast<size_t>(got));
    if (got < 0 && errno != EINTR) break;
  }
  int status = 0;
  waitpid(pid, &status, 0);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return text;
  return absl::FailedPreconditionError(absl::StrCat(absl::StrJoin(argv, " "), ": failed, see above"));
}

}  // namespace moult::ctl
