// SPDX-License-Identifier: Apache-2.0
//
// What a request does, from its line to its answer.
#include <algorithm>
#include <utility>

#include "metrics.h"
#include "moult/base/status.h"
#include "params.h"
#include "server.h"
#include "server_limits.h"

namespace moult::control {

void Server::HandleLine(uint64_t number, Connection& connection, const std::string& line) {
  absl::StatusOr<Request> request = ParseRequest(line);
  if (!request.ok()) {
    connection.Send(ErrorLine(nullptr, request.status()));
    connection.close_when_sent = true;
    return;
  }
  bool handled = false;
  const absl::StatusOr<Json> result = Immediate(number, *request, &handled);
  if (!handled) return StartCall(number, connection, *std::move(request));
  connection.Send(result.ok() ? ResultLine(request->id, *result) : ErrorLine(request->id, result.status()));
}

// The methods that are about the server itself.
absl::StatusOr<Json> Server::Immediate(uint64_t number, const Request& request, bool* handled) {
  *handled = request.method == "status" || request.method == "metrics" || request.method == "cancel";
  if (request.method == "status" || request.method == "metrics") {
    MOULT_RETURN_IF_ERROR(Params(request.params).status());
    Json status = Status();
    if (request.method == "status") return status;
    return Json{{"text", OpenMetrics(status, names_)}};
  }
  if (request.method != "cancel") return Json();
  const auto wanted = request.params.find("id");
  if (request.params.size() != 1 || wanted == request.params.end())
    return absl::InvalidArgumentError("cancel: its only parameter is id");
  for (const auto& [call, running] : running_) {
    if (running->connection != number || running->id != *wanted) continue;
    if (running->waiting) {
      Finish(call, absl::CancelledError(absl::StrCat(running->method, ": cancelled while it waited for what a policy does with the function")), Json());
      return Json::object();
    }
    if (running->call.op == nullptr)
      return absl::FailedPreconditionError("cancel: neither disk work of the store nor the end of a policy can be cancelled");
    moult_op_cancel(running->call.op);
    return Json::object();
  }
  return absl::NotFoundError("cancel: no call with this id is under way on this connection");
}

void Server::StartPolicy(Running& running, const Json& given) {
  const uint64_t key = running.number;
  Params params(given);
  const uint64_t function = params.Number("function");
  const std::string policy = params.Text("policy");
  const Json result{{"function", function}, {"policy", policy}};
  absl::Status status = params.status();
  if (status.ok()) status = NeedVm(options_.target, "policy");
  if (status.ok() && policy == "off")
    return keeper_.Leave(function, [this, key, result](const absl::Status& left) { Finish(key, left, left.ok() ? result : Json()); });
  if (status.ok()) status = keeper_.Set(function, policy);
  Finish(key, status, status.ok() ? result : Json());
}

void Server::StartCall(uint64_t number, Connection& connection, Request request) {
  const Clock::time_point now = Clock::now();
  const uint64_t key = next_number_++;
  Running& running = *(running_[key] = std::make_unique<Running>(Running{.server = this,
                                                                        .number = key,
                                                                        .connection = number,
                                                                        .id = std::move(request.id),
                                                                        .method = std::move(request.method),
                                                                        .call = {},
                                                                        .started = now,
                                                                        .next_progress = now + kProgressEvery}));
  ++connection.pending;
  if (running.method == "policy") return StartPolicy(running, request.params);
  running.held = ChangedBy(running.method, request.params);
  if (running.held != 0) keeper_.Hold(running.held);
  if (running.held != 0 && keeper_.Busy(running.held)) {
    running.waiting = std::move(request.params);
    return;
  }
  if (const absl::Status begun = Begin(running, request.params); !begun.ok()) Finish(key, begun, Json());
}

absl::Status Server::Begin(Running& running, const Json& params) {
  moult_op_options options = MOULT_INIT(options);
  options.user = &running;
  options.done = [](void* user, moult_op*) {
    Running& done = *static_cast<Running*>(user);
    done.server->OpDone(done);
  };
  MOULT_ASSIGN_OR_RETURN(Call call, Start(options_.target, running.method, params, options));
  const auto client = connections_.find(running.connection);
  if (call.stream && client != connections_.end() && client->second->pending > 1) {
    moult_op_free(call.op);
    return absl::FailedPreconditionError(
        absl::StrCat(running.method, ": the connection becomes a byte stream, but other calls are under way on it; use a connection of its own"));
  }
  running.call = std::move(call);
  keeper_.Begin(running.call.requested);
  if (client != connections_.end()) client->second->paused = running.call.stream;  // what follows belongs to the stream
  if (running.call.disk) {
    OnDisk([this, key = running.number, disk = running.call.disk] {
      absl::StatusOr<Json> outcome = disk();
      Post([this, key, outcome = std::move(outcome)] { Finish(key, outcome.status(), outcome.ok() ? *outcome : Json()); });
    });
  }
  return absl::OkStatus();
}

Server::Clock::time_point Server::NextWaiting() const {
  Clock::time_point next = Clock::time_point::max();
  for (const auto& [key, running] : running_) {
    if (running->waiting) next = std::min(next, running->started + kPolicyGivesWay * (running->interrupted ? 2 : 1));
  }
  return next;
}

void Server::BeginWaiting() {
  const Clock::time_point now = Clock::now();
  std::vector<uint64_t> turns;
  for (const auto& [key, running] : running_) {
    if (!running->waiting) continue;
    if (!keeper_.Busy(running->held) || now >= running->started + 2 * kPolicyGivesWay) {
      turns.push_back(key);
    } else if (now >= running->started + kPolicyGivesWay && !std::exchange(running->interrupted, true)) {
      keeper_.Interrupt(running->held);
    }
  }
  for (const uint64_t key : turns) {
    Running& running = *running_.at(key);
    const Json params = *std::exchange(running.waiting, std::nullopt);
    if (const absl::Status begun = Begin(running, params); !begun.ok()) Finish(key, begun, Json());
  }
}

void Server::OpDone(Running& running) {
  Json result;
  const absl::Status outcome = Outcome(running.call.op, &result);
  if (outcome.ok()) names_.Learn(running.method, result);
  const size_t streams = streams_.size();
  if (outcome.ok() && running.call.stream && running.connection != 0) OpenStream(running, result);
  if (streams_.size() == streams) keeper_.End(running.call.requested);
  Finish(running.number, outcome, result);
}

// The client's connection becomes one end of a pump; the answer goes ahead.
void Server::OpenStream(Running& running, const Json& result) {
  UniqueFd stream(moult_op_take_fd(running.call.op));
  const auto found = connections_.find(running.connection);
  if (!stream.valid() || found == connections_.end()) return;
  Connection& client = *found->second;
  std::string first = client.TakeOutput() + ResultLine(running.id, result);
  std::string pending = client.TakeInput();
  streams_.push_back({std::make_unique<Pump>(client.TakeFd(), std::move(stream), std::move(first), std::move(pending)),
                      running.call.requested});
  if (!streams_.back().pump->Process()) streams_.pop_back();
  connections_.erase(found);
  running.connection = 0;
}

void Server::Finish(uint64_t number, const absl::Status& outcome, const Json& result) {
  const auto found = running_.find(number);
  if (found == running_.end()) return;
  const std::unique_ptr<Running> running = std::move(found->second);
  running_.erase(found);
  const auto elapsed =
      std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - running->started).count();
  const auto client = connections_.find(running->connection);
  const bool gone = client == connections_.end() && !(running->call.stream && outcome.ok());
  if (client != connections_.end()) {
    --client->second->pending;
    client->second->paused = false;
    client->second->Send(outcome.ok() ? ResultLine(running->id, result)
                                      : ErrorLine(running->id, outcome, result.empty() ? Json() : result));
  }
  const bool began = running->call.op != nullptr || running->call.disk;
  if (began && (running->call.mutates || !outcome.ok())) {
    recent_.push_back({running->method, outcome, elapsed, gone});
    if (recent_.size() > kMaxRecent) recent_.pop_front();
  }
  if (gone && running->call.mutates) {
    Log(outcome.ok() ? 2 : 1, absl::StrCat(running->method, ": its client has gone; outcome: ",
                                           outcome.ok() ? "done" : outcome.message()));
  }
  if (running->call.op != nullptr) FreeOp(running->call.op);
  if (running->held != 0) keeper_.Release(running->held);
}

void Server::SendProgress() {
  const Clock::time_point now = Clock::now();
  for (const auto& [number, running] : running_) {
    const auto client = connections_.find(running->connection);
    if (client == connections_.end() || now < running->next_progress) continue;
    running->next_progress = now + kProgressEvery;
    client->second->Send(
        ProgressLine(running->id, running->method,
                     std::chrono::duration_cast<std::chrono::milliseconds>(now - running->started).count()));
  }
}

// Without a thread for it, between two rounds of the loop: clients wait meanwhile, but nothing is left undone.
void Server::OnDisk(std::function<void()> task) {
  const absl::Status posted = worker_.Post(task);
  if (posted.ok()) return;
  Log(1, std::string(posted.message()));
  Post(std::move(task));
}

void Server::Work(moult_op* op) {
  in_work_.insert(op);
  OnDisk([this, op] {
    // -ENOENT: it was cancelled before its turn came. Else the outcome is the operation's.
    (void)!moult_op_run(op);
    Post([this, op] {
      in_work_.erase(op);
      if (to_free_.erase(op) != 0) moult_op_free(op);
    });
  });
}

void Server::FreeOp(moult_op* op) {
  if (in_work_.contains(op)) {
    to_free_.insert(op);
  } else {
    moult_op_free(op);
  }
}

// Calls that have not begun.
void Server::FinishWaiting(const absl::Status& why) {
  std::vector<uint64_t> waiting;
  for (const auto& [key, running] : running_) {
    if (running->waiting) waiting.push_back(key);
  }
  for (const uint64_t key : waiting) Finish(key, Annotate(why, running_.at(key)->method), Json());
}

// What was asked of a function of an old guest must not be done to one of the new, nor its policy carried out there.
void Server::SeeBoots() {
  const uint64_t boots = options_.target.vm != nullptr ? moult_vm_boots(options_.target.vm) : 0;
  if (std::exchange(boots_, boots) == boots) return;
  FinishWaiting(absl::AbortedError("the guest has booted again: its functions are gone"));
  keeper_.Clear();
  names_.Clear();
}

void Server::CancelAll(const char* why) {
  FinishWaiting(absl::CancelledError(why));
  for (const auto& [number, running] : running_) {
    if (running->call.op == nullptr || !running->call.mutates) continue;
    Log(0, absl::StrCat(running->method, ": cancelled: ", why));
    moult_op_cancel(running->call.op);
  }
}

Json Server::Status() {
  Json status{{"version", moult_version()}};
  if (!options_.target.fault.ok()) status["fault"] = ErrorJson(options_.target.fault);
  if (options_.describe) status["embedder"] = options_.describe();
  char* text = nullptr;
  if (options_.target.vm != nullptr && moult_vm_info_json(options_.target.vm, &text) >= 0) {
    const absl::StatusOr<Json> info = ParseJson(text);
    moult_free(text);
    if (info.ok()) status["vm"] = *info;
  }
  status["clients"] = connections_.size() + streams_.size();
  status["policies"] = keeper_.Describe();
  status["keeper"] = keeper_.Totals();
  status["sweep"] = sweeper_.Describe();
  const Clock::time_point now = Clock::now();
  Json calls = Json::array();
  for (const auto& [number, running] : running_) {
    calls.push_back({{"method", running->method},
                     {"elapsed_ms",
                      std::chrono::duration_cast<std::chrono::milliseconds>(now - running->started).count()},
                     {"client_gone", running->connection == 0},
                     {"waiting", running->waiting.has_value()}});
  }
  status["running"] = std::move(calls);
  Json ended = Json::array();
  for (const Recent& recent : recent_) {
    ended.push_back(
        {{"method", recent.method}, {"elapsed_ms", recent.elapsed_ms}, {"client_gone", recent.client_gone}});
    if (!recent.outcome.ok()) ended.back()["error"] = ErrorJson(recent.outcome);
  }
  status["recent"] = std::move(ended);
  return status;
}

}  // namespace moult::control
