// SPDX-License-Identifier: Apache-2.0
#include "function/ready.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <functional>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "function/exec.h"

namespace moult::agent {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kReadyTimeout{60'000};
constexpr milliseconds kHookTimeout{10'000};
constexpr off_t kTail = 1024;

milliseconds OrDefault(uint32_t ms, milliseconds otherwise) { return ms == 0 ? otherwise : milliseconds(ms); }

// Tells of changes in a folder or file, where there is one; where not, Wait's pause is all there is.
class Changes {
 public:
  Changes(const std::string& path, uint32_t mask) : fd_(inotify_init1(IN_NONBLOCK | IN_CLOEXEC)) {
    if (fd_.valid() && inotify_add_watch(fd_.get(), path.c_str(), mask) < 0) fd_.Reset();
  }
  bool watching() const { return fd_.valid(); }
  // Until a change, or for `pause` at most.
  absl::Status Next(const Watch& watch, milliseconds pause) {
    MOULT_RETURN_IF_ERROR(Wait(watch, fd_.get(), POLLIN, pause));
    char buffer[4096];
    while (fd_.valid() && read(fd_.get(), buffer, sizeof(buffer)) > 0) {
    }
    return absl::OkStatus();
  }

 private:
  UniqueFd fd_;
};

// Tries again and again until it is no longer kUnavailable. A listening socket shows in the file system when
// it is bound, but not when it begins to listen: hence the pauses, short at first, even where changes are
// told.
absl::Status Retry(const std::function<absl::Status()>& attempt, const Function& function,
                   const Watch& watch) {
  const rpc::EndpointT* endpoint = function.info.spec->endpoint.get();
  const bool is_unix = endpoint != nullptr && endpoint->kind == rpc::EndpointKind::Unix;
  const std::string folder = is_unix ? absl::StrCat("/proc/", function.init_pid, "/root",
                                                    endpoint->path.substr(0, endpoint->path.rfind('/') + 1))
                                     : "";
  Changes changes(folder, IN_CREATE | IN_MOVED_TO | IN_ATTRIB);
  milliseconds pause{2};
  for (;;) {
    const absl::Status status = attempt();
    if (!absl::IsUnavailable(status)) return status;
    const absl::Status waited = changes.Next(watch, pause);
    if (absl::IsDeadlineExceeded(waited))
      return absl::DeadlineExceededError(absl::StrCat("not ready in time: ", status.message()));
    MOULT_RETURN_IF_ERROR(waited);
    pause = std::min(pause * 3 / 2 + milliseconds(1), milliseconds(100));
  }
}

absl::Status AwaitLine(const Function& function, const std::string& line, const Watch& watch) {
  const UniqueFd log(open(function.log_path().c_str(), O_RDONLY | O_CLOEXEC));
  if (!log.valid()) return ErrnoStatus(absl::StrCat("open ", function.log_path()));
  Changes changes(function.log_path(), IN_MODIFY);
  std::string pending;
  for (;;) {
    char buffer[8192];
    ssize_t n = 0;
    while ((n = read(log.get(), buffer, sizeof(buffer))) > 0) {
      pending.append(buffer, static_cast<size_t>(n));
      for (size_t end = 0; (end = pending.find('\n')) != std::string::npos; pending.erase(0, end + 1)) {
        if (absl::StripSuffix(absl::string_view(pending).substr(0, end), "\r") == line)
          return absl::OkStatus();
      }
      // A line longer than this is not the one.
      if (pending.size() > 65536) pending.erase(0, pending.size() - 1);
    }
    const absl::Status waited =
        changes.Next(watch, changes.watching() ? milliseconds(60'000) : milliseconds(20));
    if (absl::IsDeadlineExceeded(waited))
      return absl::DeadlineExceededError(absl::StrCat("no line \"", line, "\" in its output in time"));
    MOULT_RETURN_IF_ERROR(waited);
  }
}

absl::Status WithTail(const Function& function, const absl::Status& status) {
  if (status.ok() || absl::IsCancelled(status)) return status;
  const std::string tail = LogTail(function);
  return absl::Status(
      status.code(),
      absl::StrCat(status.message(),
                   tail.empty() ? "; it wrote nothing" : absl::StrCat("; the end of its output:\n", tail)));
}

absl::Status RunCommand(const Function& function, const rpc::HookT& hook, const Watch& watch) {
  const rpc::FunctionSpecT& spec = *function.info.spec;
  Program program;
  program.argv = hook.command;
  program.env = spec.env;
  program.cwd = spec.cwd;
  program.uid = spec.uid;
  program.gid = spec.gid;
  program.sandbox_init = function.init_pidfd.get();
  program.cgroup = function.cgroup ? function.cgroup->fd() : -1;
  const UniqueFd time(
      open(absl::StrCat("/proc/", function.init_pid, "/ns/time_for_children").c_str(), O_RDONLY | O_CLOEXEC));
  program.time_namespace = time.get();
  MOULT_ASSIGN_OR_RETURN(const Started started, StartProgram(program, /*orphan=*/false));
  const absl::Status waited = Wait(watch, started.pidfd.get(), POLLIN);
  if (!waited.ok()) syscall(SYS_pidfd_send_signal, started.pidfd.get(), SIGKILL, nullptr, 0);
  int status = 0;
  while (waitpid(started.pid, &status, 0) < 0 && errno == EINTR) {
  }
  MOULT_RETURN_IF_ERROR(waited);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      WIFEXITED(status) ? absl::StrCat(hook.command.front(), " exited with status ", WEXITSTATUS(status))
                        : absl::StrCat(hook.command.front(), " was killed by signal ", WTERMSIG(status)));
}

const rpc::EndpointT& EndpointOf(const Function& function) {
  static const rpc::EndpointT kNone;
  const auto& endpoint = function.info.spec->endpoint;
  return endpoint ? *endpoint : kNone;
}

}  // namespace

std::string LogTail(const Function& function) {
  const UniqueFd log(open(function.log_path().c_str(), O_RDONLY | O_CLOEXEC));
  struct stat st {};
  if (!log.valid() || fstat(log.get(), &st) < 0) return "";
  std::string tail(static_cast<size_t>(std::min<off_t>(st.st_size, kTail)), '\0');
  const ssize_t n = pread(log.get(), tail.data(), tail.size(), st.st_size - static_cast<off_t>(tail.size()));
  tail.resize(static_cast<size_t>(std::max<ssize_t>(n, 0)));
  return std::string(absl::StripAsciiWhitespace(tail));
}

absl::Status AwaitEndpoint(const Function& function, const Watch& watch) {
  const rpc::EndpointT& endpoint = EndpointOf(function);
  if (endpoint.kind == rpc::EndpointKind::None) return absl::OkStatus();
  return WithTail(
      function,
      Retry([&] { return ConnectEndpoint(function.init_pid, endpoint, watch).status(); }, function, watch));
}

absl::Status AwaitReady(const Function& function, const rpc::ReadinessT* readiness, const Watch& watch) {
  if (readiness == nullptr || readiness->kind == rpc::ReadinessKind::Started) return absl::OkStatus();
  const Watch until = watch.Until(Clock::now() + OrDefault(readiness->timeout_ms, kReadyTimeout));
  switch (readiness->kind) {
    case rpc::ReadinessKind::Connect:
      return AwaitEndpoint(function, until);
    case rpc::ReadinessKind::HttpGet:
      return WithTail(
          function,
          Retry([&] { return HttpGet(function.init_pid, EndpointOf(function), readiness->path, until); },
                function, until));
    case rpc::ReadinessKind::Line:
      return WithTail(function, AwaitLine(function, readiness->line, until));
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("readiness of unknown kind ", static_cast<int>(readiness->kind)));
  }
}

absl::Status RunHook(const Function& function, const rpc::HookT* hook, const char* what, const Watch& watch) {
  if (hook == nullptr || hook->kind == rpc::HookKind::None) return absl::OkStatus();
  const Watch until = watch.Until(Clock::now() + OrDefault(hook->timeout_ms, kHookTimeout));
  absl::Status status;
  if (hook->kind == rpc::HookKind::Command) {
    status =
        hook->command.empty() ? absl::InvalidArgumentError("no command") : RunCommand(function, *hook, until);
  } else {
    status = Retry([&] { return HttpGet(function.init_pid, EndpointOf(function), hook->path, until); },
                   function, until);
  }
  return Annotate(WithTail(function, status), absl::StrCat(what, " hook"));
}

}  // namespace moult::agent
