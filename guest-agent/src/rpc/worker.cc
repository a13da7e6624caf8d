// SPDX-License-Identifier: Apache-2.0
#include "rpc/worker.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "function/ready.h"
#include "rpc/log.h"

namespace moult::agent {
namespace {

using nlohmann::json;
using rpc::RequestBody;

constexpr std::chrono::milliseconds kDefaultDeadline{300'000};
constexpr std::chrono::milliseconds kSandboxEndTime{300};  // for a sandbox to end after its function

struct Verb {
  RequestBody body;
  absl::Status (*run)(Worker&);
  bool takes_connection;  // by answering OK
};
constexpr Verb kVerbs[] = {
    {RequestBody::Run, DoRun, false},         {RequestBody::Attach, DoAttach, false},
    {RequestBody::Capture, DoCapture, false}, {RequestBody::Detach, DoDetach, false},
    {RequestBody::Freeze, DoFreeze, false},   {RequestBody::Thaw, DoThaw, false},
    {RequestBody::Doctor, DoDoctor, false},   {RequestBody::Tunnel, DoTunnel, true},
    {RequestBody::Logs, DoLogs, true},        {RequestBody::Pages, DoPages, false},
};

bool TakeInt(const json& value, std::optional<int>* to) {
  if (!value.is_number_integer()) return false;
  const auto number = value.get<int64_t>();
  // A pid, or a state.
  if (number < 0 || number > std::numeric_limits<int>::max()) return false;
  *to = static_cast<int>(number);
  return true;
}

bool TakeMember(const std::string& key, const json& value, Report* report) {
  if (key == "pid") return TakeInt(value, &report->pid);
  if (key == "inner_pid") return TakeInt(value, &report->inner_pid);
  if (key == "drop" || key == "done" || key == "idle" || key == "confirm") {
    bool& member = key == "drop" ? report->drop : key == "done" ? report->done : key == "idle" ? report->idle : report->confirm;
    if (value.is_boolean()) member = value.get<bool>();
    return value.is_boolean();
  }
  if (key == "end_reason") {
    if (value.is_string()) report->end_reason = value.get<std::string>();
    return value.is_string();
  }
  std::optional<int> state;
  if (key != "state" || !TakeInt(value, &state) || *state > static_cast<int>(rpc::FunctionState::MAX))
    return false;
  report->state = static_cast<rpc::FunctionState>(*state);
  return true;
}

}  // namespace

std::string EncodeReport(const Report& report) {
  json root = {{"drop", report.drop}, {"done", report.done}, {"idle", report.idle}, {"confirm", report.confirm}};
  if (report.state) root["state"] = static_cast<int>(*report.state);
  if (report.pid) root["pid"] = *report.pid;
  if (report.inner_pid) root["inner_pid"] = *report.inner_pid;
  if (report.end_reason) root["end_reason"] = report.end_reason->substr(0, 1024);
  return root.dump(-1, ' ', false, json::error_handler_t::replace);
}

absl::StatusOr<Report> DecodeReport(std::string_view text) {
  const json root = json::parse(text, nullptr, false);
  if (!root.is_object()) return absl::DataLossError("report of a worker: not a JSON object");
  Report report;
  for (const auto& [key, value] : root.items()) {
    if (!TakeMember(key, value, &report)) {
      return absl::DataLossError(absl::StrCat("report of a worker: \"", key, "\" is unknown or wrong"));
    }
  }
  return report;
}

bool HasData(const rpc::RequestT& request) {
  const auto* attach = request.body.AsAttach();
  return attach != nullptr && attach->source == rpc::PageSource::Stream && attach->pages_size != 0;
}

Worker::Worker(const Config& agent_config, UniqueFd connection, uint64_t call_id, const rpc::RequestT& what,
               Function* whose, int agent_socket)
    : config(agent_config),
      channel(std::move(connection)),
      call(call_id),
      request(what),
      function(whose),
      agent(agent_socket),
      deadline(Clock::now() +
               (what.deadline_ms != 0 ? std::chrono::milliseconds(what.deadline_ms) : kDefaultDeadline)),
      data_due(HasData(what)) {}

Watch Worker::MakeWatch() const {
  return {channel.fd(), agent, function != nullptr ? function->init_pidfd.get() : -1, deadline};
}

bool Worker::MayGoOn() const {
  pollfd fds[] = {{agent, POLLRDHUP, 0}, {channel.fd(), POLLRDHUP, 0}};
  return poll(fds, 2, 0) == 0 && Clock::now() < deadline;
}

bool Worker::Tell(const Report& report) const {
  const std::string text = EncodeReport(report);
  return send(agent, text.data(), text.size(), MSG_NOSIGNAL) >= 0;
}

bool Worker::TellAndConfirm(Report report) const {
  report.confirm = true;
  if (!Tell(report)) return false;
  char confirmed;
  ssize_t n = 0;
  do {
    n = recv(agent, &confirmed, 1, 0);
  } while (n < 0 && errno == EINTR);
  return n == 1;
}

absl::Status Worker::Explain(const absl::Status& status) const {
  // What the kernel answers about a process that is being killed: ESRCH, ENOENT, EIO, no page map.
  const bool may_be = absl::IsNotFound(status) || absl::IsInternal(status) || absl::IsUnavailable(status);
  if (!may_be || function == nullptr) return status;
  Watch watch;
  watch.deadline = Clock::now() + kSandboxEndTime;
  if (!Wait(watch, function->init_pidfd.get(), POLLIN).ok()) return status;
  return absl::AbortedError(absl::StrCat("the function has ended meanwhile: ", status.message()));
}

absl::Status Worker::Respond(const rpc::ResponseT& response) {
  answered = true;
  return channel.Respond(call, response, MessageDeadline());
}

absl::Status Worker::SendData(absl::Span<const std::byte> data) {
  while (!data.empty()) {
    const auto piece = data.subspan(0, rpc::kMaxDataFrame);
    MOULT_RETURN_IF_ERROR(channel.SendData(call, piece, std::min(deadline, MessageDeadline())));
    data.remove_prefix(piece.size());
  }
  return absl::OkStatus();
}

std::vector<std::unique_ptr<rpc::PhaseT>> ToPhases(const engine::Phases& phases) {
  std::vector<std::unique_ptr<rpc::PhaseT>> all;
  for (const auto& [name, us] : phases.done()) {
    auto& phase = all.emplace_back(std::make_unique<rpc::PhaseT>());
    phase->name = name;
    phase->us = us;
  }
  return all;
}

absl::Status Worker::RespondFunction(std::vector<std::string> notes) {
  rpc::FunctionReplyT reply;
  reply.function = std::make_unique<rpc::FunctionInfoT>(function->info);
  reply.function->memory_bytes = function->cgroup ? function->cgroup->MemoryBytes() : 0;
  reply.phases = ToPhases(phases);
  reply.notes = std::move(notes);
  reply.kept = kept != nullptr;
  return Respond(rpc::MakeResponse(std::move(reply)));
}

absl::StatusOr<std::unique_ptr<rpc::RequestT>> Worker::AwaitEnd(RequestBody wanted, uint64_t* end_call) {
  const Watch watch = MakeWatch().Until(Clock::now() + std::chrono::milliseconds(config.hold_ms));
  for (bool late = false;; late = Clock::now() >= watch.deadline) {
    // By the clock as well: a host that says other things all the time holds nobody any longer.
    const absl::Status waited = late ? absl::DeadlineExceededError("") : Wait(watch, channel.fd(), POLLIN);
    if (absl::IsDeadlineExceeded(waited)) return absl::CancelledError(absl::StrCat("no ", rpc::VerbName(wanted), " came in time"));
    MOULT_RETURN_IF_ERROR(waited);
    auto received = channel.ReceiveRequest(std::min(watch.deadline, MessageDeadline()));
    if (!received.ok())
      return absl::CancelledError(
          absl::StrCat("no whole ", rpc::VerbName(wanted), " came: ", received.status().message()));
    if (received->second->body.type == wanted) {
      *end_call = received->first;
      return std::move(received->second);
    }
    const absl::Status error = absl::FailedPreconditionError(
        absl::StrCat(rpc::VerbName(received->second->body.type), ": only ", rpc::VerbName(wanted),
                     " can come now on this connection; use another"));
    MOULT_RETURN_IF_ERROR(
        channel.Respond(received->first, rpc::ErrorResponse(error), MessageDeadline()));
  }
}

namespace {

// The call before may be answered, and its lock held for a moment by a process that has its descriptor still. Nobody but
// this call waits here.
absl::StatusOr<UniqueFd> AwaitFolder(const std::string& folder) {
  const auto deadline = Clock::now() + std::chrono::seconds(2);
  for (;;) {
    auto lock = LockFolder(folder);
    if (lock.ok() || !absl::IsFailedPrecondition(lock.status()) || Clock::now() > deadline) return lock;
    usleep(1000);
  }
}

}  // namespace

WorkerExit Work(Worker& worker) {
  const RequestBody body = worker.request.body.type;
  for (const Verb& verb : kVerbs) {
    if (verb.body != body) continue;
    absl::Status status;
    UniqueFd lock;
    // Streams change nothing, and Doctor has no function.
    if (worker.function != nullptr && !verb.takes_connection) {
      auto taken = AwaitFolder(worker.function->folder);
      if (taken.ok()) {
        lock = *std::move(taken);
        WriteNote(lock.get(), {worker.function->info.state == rpc::FunctionState::Frozen});
      } else {
        status = taken.status();
      }
    }
    if (status.ok()) status = verb.run(worker);
    if (lock.valid()) ClearNote(lock.get());
    lock.Reset();  // Before the agent hears of it, which takes the next call then.
    worker.Tell({.done = true});
    // Who gave up could not know why.
    if (absl::IsCancelled(status) && Clock::now() >= worker.deadline)
      status = absl::DeadlineExceededError(absl::StrCat("not done by the request's deadline: ", status.message()));
    if (status.ok())
      return verb.takes_connection ? WorkerExit::kCloseConnection : WorkerExit::kKeepConnection;
    worker.kept.reset();
    const uint64_t id = worker.function != nullptr ? worker.function->info.id : 0;
    Log(absl::StrCat(rpc::VerbName(body), " of function ", id, ": ", status.ToString()));
    if (worker.answered) return WorkerExit::kCloseConnection;
    const absl::Status answered =
        worker.Respond(rpc::ErrorResponse(Annotate(status, absl::StrCat(rpc::VerbName(body)))));
    const bool of_use = answered.ok() && !worker.data_due;
    return of_use ? WorkerExit::kKeepConnection : WorkerExit::kCloseConnection;
  }
  return WorkerExit::kCloseConnection;
}

}  // namespace moult::agent
