// SPDX-License-Identifier: Apache-2.0
#include "command.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>

#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "moult/base/unique_fd.h"

namespace moult::bench {
namespace {

class SpawnSetup {
 public:
  explicit SpawnSetup(short flags) {
    posix_spawn_file_actions_init(&actions_);
    posix_spawnattr_init(&attributes_);
    // Our own blocked signals are our own business.
    sigset_t none;
    sigemptyset(&none);
    posix_spawnattr_setsigmask(&attributes_, &none);
    posix_spawnattr_setflags(&attributes_, static_cast<short>(flags | POSIX_SPAWN_SETSIGMASK));
    posix_spawn_file_actions_addopen(&actions_, 0, "/dev/null", O_RDONLY, 0);
  }
  ~SpawnSetup() {
    posix_spawn_file_actions_destroy(&actions_);
    posix_spawnattr_destroy(&attributes_);
  }
  SpawnSetup(const SpawnSetup&) = delete;
  SpawnSetup& operator=(const SpawnSetup&) = delete;

  void Give(int fd, int as) { posix_spawn_file_actions_adddup2(&actions_, fd, as); }
  void Null(int fd) { posix_spawn_file_actions_addopen(&actions_, fd, "/dev/null", O_WRONLY, 0); }
  absl::StatusOr<pid_t> Spawn(const std::vector<std::string>& argv) {
    std::vector<char*> arguments;
    for (const std::string& word : argv) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    pid_t pid = 0;
    const int error = posix_spawn(&pid, arguments[0], &actions_, &attributes_, arguments.data(), environ);
    if (error != 0) return ErrnoStatus(error, absl::StrCat("start ", argv[0]));
    return pid;
  }

 private:
  posix_spawn_file_actions_t actions_;
  posix_spawnattr_t attributes_;
};

std::string Content(int fd) {
  struct stat st {};
  fstat(fd, &st);
  std::string text(static_cast<size_t>(st.st_size), '\0');
  const ssize_t n = pread(fd, text.data(), text.size(), 0);
  text.resize(n > 0 ? static_cast<size_t>(n) : 0);
  return text;
}

// The message alone where moult-image gave it as JSON.
std::string ErrorText(const std::string& err) {
  const nlohmann::json json = nlohmann::json::parse(err, nullptr, /*allow_exceptions=*/false);
  if (json.is_object() && json.contains("error")) return json["error"].value("message", err);
  return std::string(absl::StripSuffix(err, "\n"));
}

}  // namespace

absl::StatusOr<CommandResult> RunCommand(const std::vector<std::string>& argv) {
  const UniqueFd out(memfd_create("out", MFD_CLOEXEC));
  const UniqueFd err(memfd_create("err", MFD_CLOEXEC));
  if (!out.valid() || !err.valid()) return ErrnoStatus("memfd_create");
  SpawnSetup setup(0);
  setup.Give(out.get(), 1);
  setup.Give(err.get(), 2);
  const auto begin = std::chrono::steady_clock::now();
  MOULT_ASSIGN_OR_RETURN(const pid_t pid, setup.Spawn(argv));
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  CommandResult result;
  result.wall_us =
      std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count();
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.out = Content(out.get());
  result.err = Content(err.get());
  return result;
}

absl::StatusOr<nlohmann::json> RunForJson(const std::vector<std::string>& argv, double* wall_us) {
  MOULT_ASSIGN_OR_RETURN(const CommandResult result, RunCommand(argv));
  if (wall_us != nullptr) *wall_us = result.wall_us;
  if (result.exit_code != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(argv[0], " ", argv[1], ": exit ", result.exit_code, ": ", ErrorText(result.err)));
  }
  nlohmann::json json = nlohmann::json::parse(result.out, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded())
    return absl::DataLossError(
        absl::StrCat(absl::StrJoin(argv, " "), ": its output is not JSON: ", result.out));
  return json;
}

absl::StatusOr<pid_t> StartUntilReady(const std::vector<std::string>& argv, int ready_fd) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) return ErrnoStatus("pipe");
  const UniqueFd ours(ends[0]);
  // Above the number it gets: duplicated onto itself it would stay close-on-exec.
  UniqueFd theirs(fcntl(ends[1], F_DUPFD_CLOEXEC, ready_fd + 10));
  close(ends[1]);
  SpawnSetup setup(POSIX_SPAWN_SETSID);
  setup.Null(1);
  setup.Null(2);
  setup.Give(theirs.get(), ready_fd);
  MOULT_ASSIGN_OR_RETURN(const pid_t pid, setup.Spawn(argv));
  theirs.Reset();
  char byte = 0;
  ssize_t n;
  do {
    n = read(ours.get(), &byte, 1);
  } while (n < 0 && errno == EINTR);
  if (n == 1) return pid;
  End(pid);
  return absl::InternalError(absl::StrCat(absl::StrJoin(argv, " "), ": ended before it was ready"));
}

void End(pid_t pid) {
  kill(pid, SIGKILL);
  Reap(pid);
}

void Reap(pid_t pid) {
  while (waitpid(pid, nullptr, __WALL) < 0 && errno == EINTR) {
  }
}

}  // namespace moult::bench
