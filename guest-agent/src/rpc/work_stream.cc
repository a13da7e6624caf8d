// SPDX-License-Identifier: Apache-2.0
//
// Tunnel and Logs: after Done the connection is a plain byte stream.
#include <fcntl.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "rpc/tunnel.h"
#include "rpc/worker.h"

namespace moult::agent {
namespace {

// Until the tunnel ends, or the agent.
void Pump(Tunnel& tunnel, int agent) {
  for (;;) {
    const auto wanted = tunnel.Wanted();
    pollfd fds[] = {wanted[0], wanted[1], {agent, POLLRDHUP, 0}};
    if (poll(fds, 3, -1) < 0 && errno != EINTR) return;
    if (fds[2].revents != 0 || !tunnel.Advance(fds)) return;
  }
}

// Where the log's content from `from` on begins: the agent punches holes into its beginning to keep it small.
off_t FirstData(int fd, off_t from, off_t size) {
  const off_t at = lseek(fd, from, SEEK_DATA);
  return at < 0 ? size : at;
}

absl::Status SendSome(int to, int log, off_t* at, off_t end, const Watch& watch) {
  char buffer[65536];
  const size_t most = rpc::SendLimit(to);
  while (*at < end) {
    const ssize_t n =
        pread(log, buffer, static_cast<size_t>(std::min<off_t>(end - *at, sizeof(buffer))), *at);
    if (n < 0) return ErrnoStatus("read the log");
    if (n == 0) return absl::OkStatus();
    for (ssize_t done = 0; done < n;) {
      const ssize_t sent =
          send(to, buffer + done, std::min(static_cast<size_t>(n - done), most), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (sent >= 0) {
        done += sent;
      } else if (errno == EAGAIN) {
        MOULT_RETURN_IF_ERROR(Wait(watch, to, POLLOUT));
      } else if (errno != EINTR) {
        return absl::CancelledError("the host has closed the connection");
      }
    }
    *at += n;
  }
  return absl::OkStatus();
}

void FollowLog(int to, int log, const std::string& path, const rpc::LogsT& request, Watch watch) {
  watch.init_pidfd = -1;  // what it wrote last is of interest, too
  watch.deadline = Clock::time_point::max();
  const UniqueFd changes(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  // Watched before it is read, so that nothing falls between.
  if (inotify_add_watch(changes.get(), path.c_str(), IN_MODIFY | IN_DELETE_SELF | IN_ATTRIB) < 0) return;
  struct stat st {};
  if (fstat(log, &st) < 0) return;
  const auto tail =
      static_cast<off_t>(std::min<uint64_t>(request.tail_bytes, static_cast<uint64_t>(st.st_size)));
  off_t at = FirstData(log, tail == 0 ? 0 : st.st_size - tail, st.st_size);
  for (;;) {
    if (!SendSome(to, log, &at, st.st_size, watch).ok()) return;
    if (!request.follow || st.st_nlink == 0) return;
    if (!Wait(watch, changes.get(), POLLIN).ok()) return;
    char buffer[4096];
    while (read(changes.get(), buffer, sizeof(buffer)) > 0) {
    }
    if (fstat(log, &st) < 0) return;
  }
}

absl::Status SayDone(Worker& worker) { return worker.Respond(rpc::MakeResponse(rpc::DoneT{})); }

}  // namespace

absl::Status DoTunnel(Worker& worker) {
  const Function& function = *worker.function;
  const rpc::EndpointT* endpoint = function.info.spec->endpoint.get();
  if (endpoint == nullptr)
    return absl::FailedPreconditionError("the function has no endpoint; give its spec one");
  auto connected = ConnectEndpoint(function.init_pid, *endpoint, worker.MakeWatch());
  if (!connected.ok()) return Annotate(connected.status(), "connect to the function's endpoint");
  MOULT_RETURN_IF_ERROR(SayDone(worker));
  UniqueFd host(dup(worker.channel.fd()));
  if (!host.valid()) return ErrnoStatus("dup");
  Tunnel tunnel(std::move(host), *std::move(connected));
  Pump(tunnel, worker.agent);
  return absl::OkStatus();
}

absl::Status DoLogs(Worker& worker) {
  const std::string path = worker.function->log_path();
  const UniqueFd log(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!log.valid()) return ErrnoStatus(absl::StrCat("open ", path));
  MOULT_RETURN_IF_ERROR(SayDone(worker));
  FollowLog(worker.channel.fd(), log.get(), path, *worker.request.body.AsLogs(), worker.MakeWatch());
  shutdown(worker.channel.fd(), SHUT_RDWR);
  return absl::OkStatus();
}

}  // namespace moult::agent
