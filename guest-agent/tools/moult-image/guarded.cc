// SPDX-License-Identifier: Apache-2.0
#include "guarded.h"

#include <cerrno>
#include <csignal>
#include <cstdint>

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "moult/base/status.h"
#include "moult/base/unique_fd.h"
#include "output.h"
#include "ptrace/wait.h"

namespace moult::tool {
namespace {

enum class Message : uint32_t { kAct, kResult };

struct Header {
  Message message;
  int32_t exit_code;
  uint32_t out_size;
  uint32_t err_size;
};

bool WriteAll(int fd, const void* data, size_t size) {
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t n = send(fd, at, size, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += n;
    size -= static_cast<size_t>(n);
  }
  return true;
}

bool ReadAll(int fd, void* data, size_t size) {
  char* at = static_cast<char*>(data);
  while (size > 0) {
    const ssize_t n = read(fd, at, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += n;
    size -= static_cast<size_t>(n);
  }
  return true;
}

bool Say(int channel, Message message, const WorkerOutput& output) {
  const Header header{message, output.exit_code, static_cast<uint32_t>(output.out.size()), static_cast<uint32_t>(output.err.size())};
  return WriteAll(channel, &header, sizeof(header)) && WriteAll(channel, output.out.data(), output.out.size()) &&
         WriteAll(channel, output.err.data(), output.err.size());
}

bool Hear(int channel, Message& message, WorkerOutput& output) {
  Header header{};
  if (!ReadAll(channel, &header, sizeof(header))) return false;
  message = header.message;
  output.exit_code = header.exit_code;
  output.out.resize(header.out_size);
  output.err.resize(header.err_size);
  return ReadAll(channel, output.out.data(), output.out.size()) && ReadAll(channel, output.err.data(), output.err.size());
}

bool PeerLives(int channel) {
  pollfd poll_fd{channel, POLLRDHUP, 0};
  return poll(&poll_fd, 1, 0) == 0;
}

Guard MakeGuard(int channel) {
  return {.tool_lives = [channel] { return PeerLives(channel); },
          .tool_acts =
              [channel](const WorkerOutput& output) {
                char done = 0;
                return Say(channel, Message::kAct, output) && ReadAll(channel, &done, sizeof(done));
              }};
}

// Who kills it while it holds the process's registers, harms the process. When memory runs out, the kernel shall look elsewhere.
void SpareFromOomKiller() {
  const UniqueFd fd(open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
  // Without CAP_SYS_RESOURCE it stays as likely as others.
  if (fd.valid()) static_cast<void>(!write(fd.get(), "-1000", 5));
}

[[noreturn]] void Work(int channel, const std::function<WorkerOutput(const Guard&)>& work) {
  setsid();
  prctl(PR_SET_NAME, "moult-tracer");
  // Ends by its own decision only.
  for (const int sig : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE}) signal(sig, SIG_IGN);
  SpareFromOomKiller();
  Say(channel, Message::kResult, work(MakeGuard(channel)));
  _exit(0);
}

// False when the child ended before there was one.
bool ReadResult(int channel, const std::function<void()>& last_act, WorkerOutput& output) {
  bool acted = false;
  for (;;) {
    Message message{};
    WorkerOutput heard;
    if (!Hear(channel, message, heard)) return acted;
    output = std::move(heard);
    if (message == Message::kResult) return true;
    // Without the child nothing holds the process any more: what it does now is not in the result.
    if (!PeerLives(channel)) return false;
    last_act();
    acted = true;
    const char done = 1;
    if (!WriteAll(channel, &done, sizeof(done))) return true;
  }
}

WorkerOutput Failed(const GuardedTask& task, const absl::Status& status) {
  return {ExitCode(status), "", ErrorText(Annotate(status, task.name), task.json)};
}

absl::Status EndedEarly(int status) {
  const std::string how = absl::StrCat("the tracing process ", ptrace::DescribeStatus(status),
                                       " before it had a result; see whether the process is well, and try again");
  return WIFSIGNALED(status) ? absl::AbortedError(how) : absl::InternalError(how);
}

}  // namespace

WorkerOutput RunGuarded(const GuardedTask& task) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) return Failed(task, ErrnoStatus("make a channel to the tracing process"));
  UniqueFd ours(pair[0]);
  UniqueFd theirs(pair[1]);
  const pid_t child = fork();
  if (child < 0) {
    return Failed(task, WithRemedy(ErrnoStatus("start the tracing process"), "raise the limit of processes (ulimit -u), or free memory"));
  }
  if (child == 0) {
    ours.Reset();
    Work(theirs.get(), task.work);
  }
  theirs.Reset();
  WorkerOutput output;
  const bool complete = ReadResult(ours.get(), task.last_act, output);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return complete ? output : Failed(task, EndedEarly(status));
}

}  // namespace moult::tool
