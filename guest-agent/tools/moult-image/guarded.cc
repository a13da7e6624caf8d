// SPDX-License-Identifier: Apache-2.0
#include "guarded.h"

#include <cerrno>
#include <csignal>
#include <cstdint>

#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "moult/base/status.h"
#include "moult/base/unique_fd.h"
#include "output.h"

namespace moult::tool {
namespace {

struct Header {
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

[[noreturn]] void Work(int channel, const std::function<WorkerOutput(const std::function<bool()>&)>& work) {
  setsid();
  prctl(PR_SET_NAME, "moult-tracer");
  // Ends by its own decision only.
  for (const int sig : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE}) signal(sig, SIG_IGN);
  const auto tool_lives = [channel] {
    pollfd poll_fd{channel, POLLRDHUP, 0};
    return poll(&poll_fd, 1, 0) == 0;
  };
  const WorkerOutput output = work(tool_lives);
  const Header header{output.exit_code, static_cast<uint32_t>(output.out.size()), static_cast<uint32_t>(output.err.size())};
  if (WriteAll(channel, &header, sizeof(header)) && WriteAll(channel, output.out.data(), output.out.size())) {
    WriteAll(channel, output.err.data(), output.err.size());
  }
  _exit(0);
}

WorkerOutput Failed(const absl::Status& status) { return {ExitCode(status), "", absl::StrCat("moult-image: ", status.message(), "\n")}; }

}  // namespace

WorkerOutput RunGuarded(const std::function<WorkerOutput(const std::function<bool()>& tool_lives)>& work) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) return Failed(ErrnoStatus("socketpair"));
  UniqueFd ours(pair[0]);
  UniqueFd theirs(pair[1]);
  const pid_t child = fork();
  if (child < 0) return Failed(ErrnoStatus("fork"));
  if (child == 0) {
    ours.Reset();
    Work(theirs.get(), work);
  }
  theirs.Reset();
  Header header{};
  WorkerOutput output;
  bool complete = ReadAll(ours.get(), &header, sizeof(header));
  if (complete) {
    output.exit_code = header.exit_code;
    output.out.resize(header.out_size);
    output.err.resize(header.err_size);
    complete = ReadAll(ours.get(), output.out.data(), output.out.size()) && ReadAll(ours.get(), output.err.data(), output.err.size());
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (complete) return output;
  return Failed(absl::InternalError(absl::StrCat("the tracing process ended early (wait status ", status, ")")));
}

}  // namespace moult::tool
