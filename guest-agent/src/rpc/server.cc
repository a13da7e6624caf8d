// SPDX-License-Identifier: Apache-2.0
#include "rpc/server.h"

#include <linux/vm_sockets.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>

#include "absl/strings/str_join.h"
#include "image/host.h"
#include "rpc/log.h"

namespace moult::agent {
namespace {

constexpr std::chrono::seconds kStopTime{10};
constexpr int kTidyMs = 5000;
constexpr int kSettleMs = 50;

using rpc::FunctionState;

absl::StatusOr<UniqueFd> ListenUnix(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path))
    return absl::InvalidArgumentError(absl::StrCat("unix_path ", path, " is too long for a socket"));
  std::memcpy(address.sun_path, path.c_str(), path.size());
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return ErrnoStatus("socket");
  unlink(path.c_str());
  const mode_t old = umask(0177);
  const int bound = bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  umask(old);
  if (bound < 0 || listen(fd.get(), 64) < 0) return ErrnoStatus(absl::StrCat("listen on ", path));
  return fd;
}

absl::StatusOr<UniqueFd> ListenVsock(uint32_t port) {
  UniqueFd fd(socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_vm address{};
  address.svm_family = AF_VSOCK;
  address.svm_cid = VMADDR_CID_ANY;
  address.svm_port = port;
  if (!fd.valid() || bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) < 0 ||
      listen(fd.get(), 64) < 0)
    return WithRemedy(ErrnoStatus(absl::StrCat("listen on vsock port ", port)),
                      "load vmw_vsock_virtio_transport, or set vsock_port to 0");
  return fd;
}

}  // namespace

absl::Status Server::PrepareFolders() {
  for (const std::string& folder : {config_.state_dir, config_.state_dir + "/functions"}) {
    if (mkdir(folder.c_str(), 0700) < 0 && errno != EEXIST) return ErrnoStatus(absl::StrCat("make ", folder));
  }
  auto controllers = PrepareCgroupRoot(config_.cgroup_root);
  use_cgroup_ = controllers.ok();
  if (controllers.ok()) {
    Log(absl::StrCat("cgroups in ", config_.cgroup_root,
                     ", limits: ", controllers->empty() ? "none" : absl::StrJoin(*controllers, " ")));
  } else if (config_.require_cgroup) {
    return controllers.status();
  } else {
    Log(absl::StrCat("goes without cgroups: ", controllers.status().message()));
  }
  return absl::OkStatus();
}

absl::Status Server::Listen() {
  if (config_.vsock_port != 0) {
    MOULT_ASSIGN_OR_RETURN(UniqueFd fd, ListenVsock(config_.vsock_port));
    listeners_.push_back(std::move(fd));
  }
  if (!config_.unix_path.empty()) {
    MOULT_ASSIGN_OR_RETURN(UniqueFd fd, ListenUnix(config_.unix_path));
    listeners_.push_back(std::move(fd));
    unix_listener_ = true;
  }
  if (listeners_.empty())
    return absl::InvalidArgumentError("nothing to listen on: give a vsock_port or a unix_path");
  return absl::OkStatus();
}

// What an earlier agent left: functions that still run are taken over; shells, and what was never begun, go.
void Server::Adopt() {
  std::vector<std::string> errors;
  for (auto& function : LoadAll(config_.state_dir + "/functions", &errors)) {
    rpc::FunctionInfoT& info = function->info;
    next_id_ = std::max(next_id_, info.id + 1);
    next_generation_ = std::max(next_generation_, info.generation + 1);
    if (use_cgroup_) {
      auto group = Cgroup::Open(config_.cgroup_root, absl::StrCat(info.id));
      if (group.ok()) function->cgroup = *std::move(group);
    }
    function->init_pidfd = OpenSame(function->init_pid, function->init_start);
    const bool ended = info.state == FunctionState::Ended;
    if (function->shell) {
      if (function->init_pidfd.valid())
        syscall(SYS_pidfd_send_signal, function->init_pidfd.get(), SIGKILL, nullptr, 0);
      if (function->cgroup && !function->cgroup->Remove()) leftovers_.push_back(std::move(function->cgroup));
      RemoveFolder(*function);
      continue;
    }
    Function& adopted = *(functions_[info.id] = std::move(function));
    if (ended) continue;
    if (!adopted.init_pidfd.valid()) {
      info.end_reason = "ended while no agent ran";
      FunctionEnded(adopted, -1);
      continue;
    }
    AdoptLiving(adopted);
  }
  for (const std::string& error : errors) Log(absl::StrCat("cleared away: ", error));
}

// What it is told by the record, unless somebody was changing it when the earlier agent ended. The record keeps that
// until it is settled, also for a third agent.
void Server::AdoptLiving(Function& function) {
  rpc::FunctionInfoT& info = function.info;
  const bool settled = info.state == FunctionState::Running || info.state == FunctionState::Frozen;
  const auto lock = LockFolder(function.folder);
  if (settled && lock.ok() && !ReadNote(lock->get()).has_value()) {
    info.state = function.cgroup && function.cgroup->IsFrozen() ? FunctionState::Frozen : FunctionState::Running;
  } else {
    function.interrupted = info.state;
    // That it is detached was said with the last that its worker changed: so it is, and Settle sees to it.
    if (info.state != FunctionState::Detaching || info.end_reason.empty()) {
      info.end_reason = absl::StrCat("the agent ended while it was ", rpc::EnumNameFunctionState(info.state));
    }
    info.state = FunctionState::Lost;
    lost_.push_back(info.id);
  }
  Log(absl::StrCat("found function ", info.id, " (", info.spec->name,
                   ") again: ", rpc::EnumNameFunctionState(info.state)));
}

void Server::SettleLost() {
  std::erase_if(lost_, [this](uint64_t id) {
    const auto it = functions_.find(id);
    // A worker of ours may have it by now.
    return it == functions_.end() || it->second->info.state != FunctionState::Lost ||
           (it->second->busy.empty() && Settle(*it->second));
  });
}

absl::Status Server::Start() {
  if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0) return ErrnoStatus("prctl(PR_SET_CHILD_SUBREAPER)");
  prctl(PR_SET_NAME, "moult-agent");
  signal(SIGPIPE, SIG_IGN);
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGCHLD, SIGTERM, SIGINT}) sigaddset(&set, number);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  signals_.Reset(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_.valid()) return ErrnoStatus("signalfd");
  MOULT_RETURN_IF_ERROR(PrepareFolders());
  Adopt();
  SettleLost();
  (void)engine::DescribeHost();  // once, for all workers
  MOULT_RETURN_IF_ERROR(relay_.Start());
  MOULT_RETURN_IF_ERROR(Listen());
  Refill();
  return absl::OkStatus();
}

absl::Status Server::Run() {
  Log("ready");
  while (!stopping_) Poll();
  Stop();
  return absl::OkStatus();
}

// Signals before reports before requests: who asks after an answer came sees all that led to it.
void Server::Poll() {
  std::vector<pollfd> fds;
  fds.push_back({signals_.get(), POLLIN, 0});
  fds.push_back({relay_.fd(), POLLIN, 0});
  for (const Running& worker : workers_) fds.push_back({worker.socket.get(), POLLIN, 0});
  std::vector<uint64_t> adopted;
  for (const auto& [id, function] : functions_) {
    if (function->sandbox != nullptr || !function->init_pidfd.valid()) continue;  // our child: SIGCHLD tells
    adopted.push_back(id);
    fds.push_back({function->init_pidfd.get(), POLLIN, 0});
  }
  const size_t first_listener = fds.size();
  for (const UniqueFd& listener : listeners_) fds.push_back({listener.get(), POLLIN, 0});
  const size_t first_connection = fds.size();
  const std::vector<std::shared_ptr<Connection>> connections(connections_.begin(), connections_.end());
  auto wake = Clock::time_point::max();
  for (const auto& connection : connections) {
    const bool reads = !connection->busy && !connection->has_output() && !connection->closing;
    const auto events = static_cast<short>((reads ? POLLIN : 0) | (connection->has_output() ? POLLOUT : 0));
    fds.push_back({events != 0 ? connection->fd() : -1, events, 0});
    wake = std::min(wake, connection->Owes().deadline);
  }
  int timeout = functions_.empty() && leftovers_.empty() ? -1 : kTidyMs;
  const auto wake_by = [&timeout](Clock::time_point when) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(when - Clock::now()).count();
    const int ms = static_cast<int>(std::clamp<int64_t>(left, 0, kTidyMs)) + 1;
    timeout = timeout < 0 ? ms : std::min(timeout, ms);
  };
  if (wake != Clock::time_point::max()) wake_by(wake);
  if (!IsFull() && refill_at_ >= Clock::now()) wake_by(refill_at_);
  if (!lost_.empty()) timeout = timeout < 0 ? kSettleMs : std::min(timeout, kSettleMs);
  const int n = poll(fds.data(), fds.size(), timeout);
  SettleLost();
  if (n < 0 && errno != EINTR) Log(ErrnoStatus("poll").ToString());
  // By the clock: an agent that is asked often must look after its logs, too.
  if (Clock::now() >= tidy_at_) {
    tidy_at_ = Clock::now() + std::chrono::milliseconds(kTidyMs);
    KeepTidy();
  }
  if (n == 0) Refill();
  if (n <= 0) return CloseOverdue();

  if (fds[0].revents != 0) HandleSignals();
  if (fds[1].revents != 0) relay_.Update();
  std::vector<Running*> talking;
  for (Running& worker : workers_) {
    // Workers that HandleSignals has just buried are not in the list any more; the others' sockets tell.
    talking.push_back(&worker);
  }
  for (Running* worker : talking) ReadReports(*worker);
  TakeIdle();
  size_t at = first_listener - adopted.size();
  for (const uint64_t id : adopted) {
    const auto it = functions_.find(id);
    if (fds[at++].revents != 0 && it != functions_.end()) FunctionEnded(*it->second, -1);
  }
  for (size_t i = 0; i < connections.size(); ++i) {
    const short events = fds[first_connection + i].revents;
    if (events == 0 || connections[i]->dead) continue;
    if (connections[i]->has_output()) {
      if (!connections[i]->Write().ok()) connections[i]->dead = true;
    } else if (!connections[i]->busy) {
      Serve(connections[i]);
    }
  }
  for (size_t i = 0; i < listeners_.size(); ++i) {
    if (fds[first_listener + i].revents != 0) Accept(static_cast<int>(i));
  }
  // After what has come in time was read.
  CloseOverdue();
  for (const auto& connection : connections) {
    if (connection->closing && !connection->has_output()) connection->dead = true;
  }
  connections_.remove_if([](const auto& connection) { return connection->dead && !connection->busy; });
  Refill();
}

void Server::HandleSignals() {
  signalfd_siginfo info;
  while (read(signals_.get(), &info, sizeof(info)) == sizeof(info)) {
    if (info.ssi_signo != SIGCHLD) stopping_ = true;
  }
  for (;;) {
    int status = 0;
    const pid_t pid = waitpid(-1, &status, WNOHANG);
    if (pid <= 0) break;
    Reap(pid, status);
  }
}

void Server::Reap(pid_t pid, int status) {
  for (auto worker = workers_.begin(); worker != workers_.end(); ++worker) {
    if (worker->pid == pid) return WorkerEnded(worker, status);
  }
  std::erase_if(standby_, [pid](const Standby& standby) { return standby.pid == pid; });
  for (const auto& [id, function] : functions_) {
    if (function->init_pid == pid && function->sandbox != nullptr) {
      const int child = function->sandbox->ChildStatus();
      return FunctionEnded(*function, child >= 0 ? child : status);
    }
  }
  for (auto shell = shells_.begin(); shell != shells_.end(); ++shell) {
    if ((*shell)->init_pid != pid) continue;
    Log("a warm shell has ended");
    (*shell)->sandbox->Keep();
    if ((*shell)->cgroup && !(*shell)->cgroup->Remove()) leftovers_.push_back(std::move((*shell)->cgroup));
    RemoveFolder(**shell);
    shells_.erase(shell);
    return;
  }
}

void Server::Accept(int index) {
  sockaddr_storage peer{};
  socklen_t size = sizeof(peer);
  UniqueFd fd(accept4(listeners_[static_cast<size_t>(index)].get(), reinterpret_cast<sockaddr*>(&peer), &size,
                      SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd.valid()) return;
  if (peer.ss_family == AF_VSOCK) {
    const uint32_t cid = reinterpret_cast<const sockaddr_vm&>(peer).svm_cid;
    if (std::find(config_.allowed_cids.begin(), config_.allowed_cids.end(), cid) ==
        config_.allowed_cids.end()) {
      return Log(absl::StrCat("refused a connection from vsock CID ", cid));
    }
  }
  auto connection = std::make_shared<Connection>(std::move(fd), std::chrono::milliseconds(config_.message_ms));
  if (connections_.size() >= config_.max_connections) {
    // An answer to whatever its first request is.
    Refuse(*connection, 1,
           absl::ResourceExhaustedError(
               absl::StrCat("this agent has ", connections_.size(),
                            " connections, the most that it takes; close one, or raise max_connections")));
    (void)connection->Write();
    return;
  }
  connections_.push_back(std::move(connection));
}

// Hosts that have not done their part in time: each costs a descriptor, and one of max_connections.
void Server::CloseOverdue() {
  const auto now = Clock::now();
  for (const auto& connection : connections_) {
    const Connection::Debt debt = connection->Owes();
    if (connection->dead || debt.deadline >= now) continue;
    Log(absl::StrCat("closed a connection: ", debt.what));
    connection->dead = true;
  }
  connections_.remove_if([](const auto& connection) { return connection->dead && !connection->busy; });
}

// From time to time while there is something to look after.
void Server::KeepTidy() {
  std::erase_if(leftovers_, [](const auto& group) { return group->Remove(); });
  for (const auto& [id, function] : functions_) TrimLog(*function, config_.log_bytes);
}

// Workers give up when the other end of their socket goes; whoever is left then finds out by itself.
void Server::Stop() {
  Log("stopping; functions go on running");
  listeners_.clear();
  standby_.clear();
  if (!config_.unix_path.empty()) unlink(config_.unix_path.c_str());
  for (Running& worker : workers_) shutdown(worker.socket.get(), SHUT_RDWR);
  const auto deadline = Clock::now() + kStopTime;
  while (!workers_.empty() && Clock::now() < deadline) {
    pollfd fd{signals_.get(), POLLIN, 0};
    poll(&fd, 1, 100);
    for (Running& worker : workers_) ReadReports(worker);
    TakeIdle();
    standby_.clear();
    HandleSignals();
  }
  // Their init ends with us, having no child; the folders would be cleared by the next agent only.
  for (auto& shell : shells_) {
    shell->sandbox.reset();
    if (shell->cgroup) shell->cgroup->Remove();
    RemoveFolder(*shell);
  }
  for (const auto& [id, function] : functions_) {
    if (function->sandbox) function->sandbox->Keep();
  }
}

}  // namespace moult::agent
