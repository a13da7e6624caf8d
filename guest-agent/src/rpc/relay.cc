// SPDX-License-Identifier: Apache-2.0
#include "rpc/relay.h"

#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <list>
#include <optional>
#include <utility>
#include <vector>

#include "rpc/packet.h"
#include "rpc/tunnel.h"

namespace moult::agent {
namespace {

constexpr int kSocket = 3;  // of the process, its only descriptor at first
constexpr char kByte = 0;   // a packet of one byte: here are two descriptors; a tunnel has ended

int TimeoutOf(const std::list<Tunnel>& tunnels) {
  std::optional<Tunnel::Clock::time_point> first;
  for (const Tunnel& tunnel : tunnels) {
    if (tunnel.deadline() && (!first || *tunnel.deadline() < *first)) first = tunnel.deadline();
  }
  if (!first) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(*first - Tunnel::Clock::now());
  return static_cast<int>(std::max<int64_t>(left.count(), 0));
}

// All tunnels, until the agent goes.
void Serve() {
  std::list<Tunnel> tunnels;
  std::vector<pollfd> fds;
  for (bool open = true; open;) {
    fds.assign(1, {kSocket, POLLIN, 0});
    for (const Tunnel& tunnel : tunnels) {
      for (const pollfd& fd : tunnel.Wanted()) fds.push_back(fd);
    }
    if (poll(fds.data(), fds.size(), TimeoutOf(tunnels)) < 0) {
      if (errno == EINTR) continue;
      return;
    }
    size_t at = 1;
    for (auto tunnel = tunnels.begin(); tunnel != tunnels.end(); at += 2) {
      const auto here = tunnel++;
      if (here->Advance(fds.data() + at)) continue;
      tunnels.erase(here);
      (void)!send(kSocket, &kByte, 1, MSG_NOSIGNAL);
    }
    if (fds[0].revents == 0) continue;
    auto packet = ReceivePacket(kSocket, 1);
    open = !absl::IsCancelled(packet.status());
    if (packet.ok() && !packet->has_value()) continue;
    if (packet.ok() && (*packet)->fds.size() == 2) {
      tunnels.emplace_back(std::move((*packet)->fds[0]), std::move((*packet)->fds[1]));
    } else if (open) {
      (void)!send(kSocket, &kByte, 1, MSG_NOSIGNAL);  // there were no descriptors left for them
    }
  }
}

}  // namespace

absl::Status Relay::Start() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) return ErrnoStatus("socketpair");
  UniqueFd ours(ends[0]);
  UniqueFd theirs(ends[1]);
  const pid_t agent = getpid();
  const pid_t pid = fork();
  if (pid < 0) return CloneStatus(errno, "fork the relay");
  if (pid == 0) {
    prctl(PR_SET_NAME, "moult-relay");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (const int number : {SIGTERM, SIGINT, SIGHUP}) signal(number, SIG_IGN);
    if (getppid() != agent || dup2(theirs.get(), kSocket) < 0) _exit(1);
    syscall(SYS_close_range, kSocket + 1, ~0u, 0);
    Serve();
    _exit(0);
  }
  socket_ = std::move(ours);
  pid_ = pid;
  count_ = 0;
  return absl::OkStatus();
}

absl::Status Relay::Take(int host, int function) {
  if (!socket_.valid()) MOULT_RETURN_IF_ERROR(Start());
  const int ends[] = {host, function};
  MOULT_RETURN_IF_ERROR(Annotate(SendPacket(socket_.get(), {&kByte, 1}, ends), "hand a tunnel to the relay"));
  ++count_;
  return absl::OkStatus();
}

void Relay::Update() {
  char bytes[64];
  for (;;) {
    const ssize_t n = recv(socket_.get(), bytes, sizeof(bytes), MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return;
    if (n == 0) {
      socket_.Reset();
      count_ = 0;
      return;
    }
    if (count_ > 0) --count_;
  }
}

}  // namespace moult::agent
