// SPDX-License-Identifier: Apache-2.0
//
// The main process's side of workers and of functions' ends.
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>

#include "ptrace/wait.h"
#include "rpc/log.h"
#include "rpc/server.h"
#include "rpc/standby.h"
#include "shell/shell.h"

namespace moult::agent {
namespace {

using rpc::FunctionState;
using rpc::RequestBody;

// The function that has just started has better use for the CPU.
constexpr std::chrono::milliseconds kRefillDelay{200};

bool IsStream(RequestBody verb) { return verb == RequestBody::Tunnel || verb == RequestBody::Logs; }
bool IsStart(RequestBody verb) { return verb == RequestBody::Run || verb == RequestBody::Attach; }

// All but `keep` (rising after the sort) and the standard descriptors.
void CloseOthers(std::vector<int> keep) {
  std::sort(keep.begin(), keep.end());
  unsigned next = 3;
  for (const int fd : keep) {
    if (fd < static_cast<int>(next)) continue;
    if (static_cast<unsigned>(fd) > next) syscall(SYS_close_range, next, static_cast<unsigned>(fd) - 1, 0);
    next = static_cast<unsigned>(fd) + 1;
  }
  syscall(SYS_close_range, next, ~0u, 0);
}

// The ends of its socket: the agent's, and the worker's own.
absl::StatusOr<pid_t> ForkWorker(UniqueFd* ours, UniqueFd* theirs) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) return ErrnoStatus("socketpair");
  ours->Reset(ends[0]);
  theirs->Reset(ends[1]);
  const pid_t pid = fork();
  if (pid < 0) return ErrnoStatus("fork a worker");
  return pid;
}

// A worker ends by its own decision only: a signal in the midst of a capture could harm the function.
void IgnoreSignals() {
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) signal(number, SIG_IGN);
}

std::vector<int> Descriptors(const Function* function) {
  if (function == nullptr) return {};
  std::vector<int> fds{function->init_pidfd.get()};
  if (function->cgroup) fds.push_back(function->cgroup->fd());
  if (function->sandbox) {
    fds.push_back(function->sandbox->handles().pidfd);
    fds.push_back(function->sandbox->handles().time_namespace);
    fds.push_back(function->sandbox->shared_fd());
  }
  return fds;
}

// A worker that is a fork of the agent goes on as one that waits, without what was the verb's.
[[noreturn]] void StayWith(Worker& worker) {
  worker.channel.TakeFd().Reset();
  if (Function* function = worker.function; function != nullptr) {
    function->init_pidfd.Reset();
    function->cgroup.reset();
    if (function->sandbox != nullptr) function->sandbox->Keep();
    function->sandbox.reset();
  }
  worker.Tell({.idle = true});
  StandBy(worker.config, worker.agent, std::move(worker.kept));
}

}  // namespace

absl::Status NotKept(const rpc::AttachT& attach) {
  return absl::NotFoundError(absl::StrCat("template ", attach.name, " is not kept here; send its image and manifest"));
}

absl::Status Server::CheckStreams() const {
  const size_t streams =
      relay_.count() + static_cast<size_t>(std::count_if(workers_.begin(), workers_.end(),
                                                         [](const Running& worker) { return worker.stream; }));
  if (streams < static_cast<size_t>(config_.max_streams)) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("there are ", streams,
                   " tunnels and logs, the most that this agent takes; close one, or raise max_streams"));
}

absl::Status Server::StartWorker(const std::shared_ptr<Connection>& connection, uint64_t call,
                                 const rpc::RequestT& request, Function* function) {
  const RequestBody verb = request.body.type;
  if (IsStream(verb)) MOULT_RETURN_IF_ERROR(CheckStreams());
  Running worker;
  if (!TakeStandby(connection, call, request, function, worker)) {
    // A new one knows no template.
    const rpc::AttachT* attach = request.body.AsAttach();
    if (attach != nullptr && IsShort(*attach)) return NotKept(*attach);
    MOULT_RETURN_IF_ERROR(Fork(connection, call, request, function, worker));
  }
  Running& running = workers_.emplace_back(std::move(worker));
  running.verb = verb;
  running.connection = connection;
  running.stream = IsStream(verb);
  if (const rpc::AttachT* attach = request.body.AsAttach()) running.key = KeyOf(*attach);
  connection->busy = true;
  if (function == nullptr) return absl::OkStatus();
  running.function = function->info.id;
  running.was_frozen = function->info.state == FunctionState::Frozen;
  if (running.stream) return absl::OkStatus();
  function->busy = rpc::VerbName(verb);
  return absl::OkStatus();
}

std::list<Server::Standby>::iterator Server::FindStandby(const TemplateKey& key) {
  return std::find_if(standby_.begin(), standby_.end(), [&](const Standby& standby) { return standby.key == key; });
}

bool Server::TakeStandby(const std::shared_ptr<Connection>& connection, uint64_t call, const rpc::RequestT& request,
                         const Function* function, Running& worker) {
  if (function == nullptr || IsStream(request.body.type)) return false;
  const rpc::AttachT* attach = request.body.AsAttach();
  const TemplateKey key = attach != nullptr ? KeyOf(*attach) : TemplateKey();
  auto standby = FindStandby(key);
  if (standby == standby_.end() && attach == nullptr) return false;
  if (standby == standby_.end()) standby = FindStandby({});  // one that has no template yet
  if (standby == standby_.end()) return false;
  // One that has no template cannot be told of one in short.
  if (attach != nullptr && IsShort(*attach) && standby->key != key) return false;
  const absl::Status sent = SendOrder(standby->socket.get(), connection->fd(), call, request, *function);
  if (absl::IsResourceExhausted(sent)) return false;
  if (sent.ok()) {
    worker.pid = standby->pid;
    worker.socket = std::move(standby->socket);
  } else {
    Log(absl::StrCat("worker ", standby->pid, " that waited: ", sent.message()));
  }
  standby_.erase(standby);
  return sent.ok();
}

// Workers that have said that they wait for the next attach of their template.
void Server::TakeIdle() {
  for (auto worker = workers_.begin(); worker != workers_.end();) {
    const auto here = worker++;
    if (!here->idle) continue;
    here->connection->busy = false;
    refill_at_ = Clock::now() + kRefillDelay;
    if (!here->key.digest.empty() && FindStandby(here->key) == standby_.end()) {
      standby_.push_front({here->pid, std::move(here->socket), here->key});
    }
    workers_.erase(here);
  }
  // The one that has waited longest goes first: its socket closes.
  const auto keeps = [](const Standby& standby) { return !standby.key.digest.empty(); };
  while (static_cast<size_t>(std::count_if(standby_.begin(), standby_.end(), keeps)) > config_.keep_templates) {
    standby_.erase(std::next(std::find_if(standby_.rbegin(), standby_.rend(), keeps)).base());
  }
}

void Server::DropKept(uint32_t window, uint64_t offset, uint64_t length) {
  const auto overlaps = [&](const TemplateKey& key) {
    return !key.digest.empty() && key.window == window && key.offset < offset + length && offset < key.offset + key.size;
  };
  standby_.remove_if([&](const Standby& standby) { return overlaps(standby.key); });
  for (Running& worker : workers_) {
    if (overlaps(worker.key)) worker.key = {};  // when it is idle, it goes
  }
}

absl::Status Server::Fork(const std::shared_ptr<Connection>& connection, uint64_t call,
                          const rpc::RequestT& request, Function* function, Running& worker) {
  UniqueFd theirs;
  MOULT_ASSIGN_OR_RETURN(worker.pid, ForkWorker(&worker.socket, &theirs));
  if (worker.pid == 0) {
    // What others have asked is not for this process to keep.
    for (Running& other : workers_) other.request.reset();
    for (const auto& other : connections_) other->Forget();
    std::vector<int> keep = Descriptors(function);
    keep.push_back(connection->fd());
    keep.push_back(theirs.get());
    CloseOthers(std::move(keep));
    IgnoreSignals();
    // Never destroyed: this process leaves by _exit.
    auto* work = new Worker(config_, UniqueFd(connection->fd()), call, request, function, theirs.get());
    const WorkerExit exit = Work(*work);
    if (exit != WorkerExit::kKeepConnection || work->kept == nullptr) _exit(static_cast<int>(exit));
    serving_.reset();
    StayWith(*work);
  }
  return absl::OkStatus();
}

absl::Status Server::MakeSpare() {
  Standby spare;
  UniqueFd theirs;
  MOULT_ASSIGN_OR_RETURN(spare.pid, ForkWorker(&spare.socket, &theirs));
  if (spare.pid == 0) {
    CloseOthers({theirs.get()});
    IgnoreSignals();
    StandBy(config_, theirs.get(), nullptr);
  }
  standby_.push_back(std::move(spare));
  return absl::OkStatus();
}

void Server::ReadReports(Running& worker) {
  char buffer[kMaxReport];
  for (;;) {
    const ssize_t n = recv(worker.socket.get(), buffer, sizeof(buffer), MSG_DONTWAIT);
    if (n <= 0) return;
    auto report = DecodeReport({buffer, static_cast<size_t>(n)});
    if (report.ok()) Apply(worker, *report);
  }
}

void Server::Apply(Running& worker, const Report& report) {
  if (report.done) worker.done = true;
  if (report.idle) worker.idle = true;
  const auto it = functions_.find(worker.function);
  if (it == functions_.end()) return;
  Function& function = *it->second;
  if (report.done && !worker.stream) function.busy.clear();
  if (report.drop) return Drop(worker.function);
  if (report.pid) function.info.pid = *report.pid;
  if (report.inner_pid) function.info.inner_pid = *report.inner_pid;
  if (report.end_reason) function.info.end_reason = *report.end_reason;
  // It may have ended before this was said.
  if (report.state && function.info.state != FunctionState::Ended) function.info.state = *report.state;
  if (!report.state && !report.pid && !report.end_reason) return;
  // Detaching is not for an agent after this one: what it needs to know is in the function's lock.
  if (report.state == FunctionState::Detaching && !report.end_reason) return;
  const absl::Status saved = Save(function);
  if (!saved.ok()) Log(saved.ToString());
}

void Server::WorkerEnded(std::list<Running>::iterator it, int status) {
  ReadReports(*it);
  Running worker = std::move(*it);
  workers_.erase(it);
  worker.connection->busy = false;
  if (IsStart(worker.verb)) refill_at_ = Clock::now() + kRefillDelay;
  const bool keeps =
      WIFEXITED(status) && WEXITSTATUS(status) == static_cast<int>(WorkerExit::kKeepConnection);
  if (!keeps) {
    shutdown(worker.connection->fd(), SHUT_RDWR);
    worker.connection->dead = true;
  }
  const auto found = functions_.find(worker.function);
  if (worker.done || worker.stream || found == functions_.end()) return;
  // It was killed in the midst of it: what it left half-done is put right here.
  Function& function = *found->second;
  Log(absl::StrCat(rpc::VerbName(worker.verb), " of function ", worker.function, ": its worker ",
                   ptrace::DescribeStatus(status)));
  function.busy.clear();
  if (IsStart(worker.verb)) return Drop(worker.function);
  if (const auto lock = LockFolder(function.folder); lock.ok()) ClearNote(lock->get());
  if (function.info.state == FunctionState::Ended) return;
  if (function.cgroup) {
    const bool frozen = worker.was_frozen && worker.verb != RequestBody::Thaw;
    (void)(frozen ? function.cgroup->Freeze(Clock::now()) : function.cgroup->Thaw());
  }
  function.info.state = worker.was_frozen && function.cgroup && function.cgroup->IsFrozen()
                            ? FunctionState::Frozen
                            : FunctionState::Running;
  (void)Save(function);
}

// An operation of an earlier agent's is over, by itself or with its worker: what it left half-done is put right.
// False: it still goes on.
bool Server::Settle(Function& function) {
  const auto lock = LockFolder(function.folder);
  if (!lock.ok()) return false;
  rpc::FunctionInfoT& info = function.info;
  const auto note = ReadNote(lock->get());
  ClearNote(lock->get());
  if (function.interrupted == FunctionState::Starting || function.interrupted == FunctionState::Attaching) {
    // It was never ready, and no host was told that it was.
    info.end_reason = "the agent ended before it was ready";
    syscall(SYS_pidfd_send_signal, function.init_pidfd.get(), SIGKILL, nullptr, 0);
    return true;
  }
  if (note.has_value() && function.cgroup)
    (void)(note->was_frozen ? function.cgroup->Freeze(Clock::now()) : function.cgroup->Thaw());
  info.state = function.cgroup && function.cgroup->IsFrozen() ? FunctionState::Frozen : FunctionState::Running;
  info.end_reason.clear();
  if (const absl::Status saved = Save(function); !saved.ok()) Log(saved.ToString());
  Log(absl::StrCat("function ", info.id, " (", info.spec->name, ") is ",
                   rpc::EnumNameFunctionState(info.state), " again"));
  return true;
}

void Server::FunctionEnded(Function& function, int status) {
  rpc::FunctionInfoT& info = function.info;
  info.state = FunctionState::Ended;
  info.pid = 0;
  info.exit_status = std::max(status, 0);
  if (info.end_reason.empty() || function.kill_asked) {
    info.end_reason = function.kill_asked ? "killed on request"
                      : status >= 0       ? ptrace::DescribeStatus(status)
                                          : "ended, how is not known: an earlier agent was its parent";
  }
  if (function.cgroup) {
    if (function.cgroup->SawOutOfMemory()) absl::StrAppend(&info.end_reason, " (out of memory)");
    if (!function.cgroup->Remove()) leftovers_.push_back(std::move(function.cgroup));
    function.cgroup.reset();
  }
  if (function.sandbox) {
    function.sandbox->Keep();  // reaped: its pid may be another's soon
    function.sandbox.reset();
  }
  function.init_pidfd.Reset();
  function.init_pid = 0;
  (void)Save(function);
  const uint64_t id = info.id;
  for (auto kill = kills_.begin(); kill != kills_.end();) {
    if (kill->function != id) {
      ++kill;
      continue;
    }
    kill->connection->busy = false;
    Answer(*kill->connection, kill->call, rpc::MakeResponse(rpc::DoneT{}));
    kill = kills_.erase(kill);
  }
  if (function.kill_asked) function.busy.clear();
  // The oldest that nobody works on; not this one, which a caller may still look at.
  size_t ended = 0;
  for (const auto& [other, entry] : functions_) ended += entry->info.state == FunctionState::Ended ? 1 : 0;
  for (auto it = functions_.begin(); it != functions_.end() && ended > config_.keep_ended;) {
    const auto next = std::next(it);
    if (it->second->info.state == FunctionState::Ended && it->second->busy.empty() && it->first != id) {
      Drop(it->first);
      --ended;
    }
    it = next;
  }
}

void Server::Drop(uint64_t id) {
  const auto it = functions_.find(id);
  if (it == functions_.end()) return;
  Function& function = *it->second;
  if (function.init_pidfd.valid())
    syscall(SYS_pidfd_send_signal, function.init_pidfd.get(), SIGKILL, nullptr, 0);
  if (function.sandbox) function.sandbox->Keep();  // reaped by the loop, as a child nobody knows
  if (function.cgroup && !function.cgroup->Remove()) leftovers_.push_back(std::move(function.cgroup));
  RemoveFolder(function);
  functions_.erase(it);
}

absl::StatusOr<std::unique_ptr<Function>> Server::TakeShell() {
  if (shells_.empty()) return MakeShell(config_, use_cgroup_, next_id_++);
  auto shell = std::move(shells_.front());
  shells_.pop_front();
  return shell;
}

void Server::Refill() {
  // Not while anybody waits for a worker that may need the CPU, nor when a function that has just begun is about to be
  // called for the first time.
  if (Clock::now() < refill_at_ ||
      std::any_of(workers_.begin(), workers_.end(), [](const Running& worker) { return !worker.stream; }))
    return;
  while (!stopping_ && shells_.size() < config_.warm_shells) {
    auto shell = MakeShell(config_, use_cgroup_, next_id_++);
    if (!shell.ok()) return Log(shell.status().ToString());
    shells_.push_back(*std::move(shell));
  }
  // A fork would have a copy of what has come of a request, and longer than the request lives.
  const auto in_frame = [](const auto& connection) { return connection->frame_deadline() != Clock::time_point::max(); };
  if (std::any_of(connections_.begin(), connections_.end(), in_frame)) return;
  if (!stopping_ && FindStandby({}) == standby_.end()) {
    if (const absl::Status made = MakeSpare(); !made.ok()) Log(made.ToString());
  }
}

bool Server::IsFull() { return FindStandby({}) != standby_.end() && shells_.size() >= config_.warm_shells; }

}  // namespace moult::agent
