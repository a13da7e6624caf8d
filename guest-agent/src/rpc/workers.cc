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
#include "rpc/fork_worker.h"
#include "rpc/log.h"
#include "rpc/server.h"
#include "rpc/standby.h"

namespace moult::agent {
namespace {

using rpc::FunctionState;
using rpc::RequestBody;

bool IsStart(RequestBody verb) { return verb == RequestBody::Run || verb == RequestBody::Attach; }

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
    BecomeWorker(std::move(keep));
    // Never destroyed: this process leaves by _exit.
    auto* work = new Worker(config_, UniqueFd(connection->fd()), call, request, function, theirs.get());
    const WorkerExit exit = Work(*work);
    if (exit != WorkerExit::kKeepConnection || work->kept == nullptr) _exit(static_cast<int>(exit));
    serving_.reset();
    StayWith(*work);
  }
  return absl::OkStatus();
}

void Server::ReadReports(Running& worker) {
  char buffer[kMaxReport];
  for (;;) {
    const ssize_t n = recv(worker.socket.get(), buffer, sizeof(buffer), MSG_DONTWAIT);
    if (n <= 0) return;
    auto report = DecodeReport({buffer, static_cast<size_t>(n)});
    if (!report.ok()) continue;
    Apply(worker, *report);
    if (report->confirm) (void)!send(worker.socket.get(), "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
  }
}

void Server::Apply(Running& worker, const Report& report) {
  // It may be said twice, before the host is answered and at the end: by then the function may be another worker's.
  const bool releases = report.done && !worker.done && !worker.stream;
  if (report.done) worker.done = true;
  if (report.idle) worker.idle = true;
  const auto it = functions_.find(worker.function);
  if (it == functions_.end()) return;
  Function& function = *it->second;
  if (releases) function.busy.clear();
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
  // Its pipes are wiped already, and the host may have read that it is detached.
  if (worker.verb == RequestBody::Detach && !function.info.end_reason.empty()) {
    syscall(SYS_pidfd_send_signal, function.init_pidfd.get(), SIGKILL, nullptr, 0);
    return;
  }
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
  if (function.interrupted == FunctionState::Detaching && !info.end_reason.empty()) {
    syscall(SYS_pidfd_send_signal, function.init_pidfd.get(), SIGKILL, nullptr, 0);
    return true;
  }
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

}  // namespace moult::agent
