// SPDX-License-Identifier: Apache-2.0
//
// What a request does, from its line to its answer.
#include <algorithm>

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
  *handled = request.method == "status" || request.method == "metrics" || request.method == "cancel" || request.method == "policy";
  if (request.method == "policy") return SetPolicy(request);
  if (request.method == "status" || request.method == "metrics") {
    MOULT_RETURN_IF_ERROR(Params(request.params).status());
    Json status = Status();
    if (request.method == "status") return status;
    return Json{{"text", OpenMetrics(status)}};
  }
  if (request.method != "cancel") return Json();
  const auto wanted = request.params.find("id");
  if (request.params.size() != 1 || wanted == request.params.end())
    return absl::InvalidArgumentError("cancel: its only parameter is id");
  for (const auto& [call, running] : running_) {
    if (running->connection != number || running->id != *wanted) continue;
    if (running->call.op == nullptr)
      return absl::FailedPreconditionError("cancel: disk work of the store cannot be cancelled");
    moult_op_cancel(running->call.op);
    return Json::object();
  }
  return absl::NotFoundError("cancel: no call with this id is under way on this connection");
}

absl::StatusOr<Json> Server::SetPolicy(const Request& request) {
  Params params(request.params);
  const uint64_t function = params.Number("function");
  const std::string policy = params.Text("policy");
  MOULT_RETURN_IF_ERROR(params.status());
  MOULT_RETURN_IF_ERROR(NeedVm(options_.target, request.method));
  MOULT_RETURN_IF_ERROR(keeper_.Set(function, policy));
  return Json{{"function", function}, {"policy", policy}};
}

void Server::StartCall(uint64_t number, Connection& connection, Request request) {
  auto running = std::make_unique<Running>();
  moult_op_options options = MOULT_INIT(options);
  options.user = running.get();
  options.done = [](void* user, moult_op*) {
    Running& done = *static_cast<Running*>(user);
    done.server->OpDone(done);
  };
  const Clock::time_point now = Clock::now();
  *running = Running{.server = this,
                     .number = next_number_++,
                     .connection = number,
                     .id = std::move(request.id),
                     .method = std::move(request.method),
                     .call = {},
                     .started = now,
                     .next_progress = now + kProgressEvery};
  absl::StatusOr<Call> call = Start(options_.target, running->method, request.params, options);
  if (call.ok() && call->stream && connection.pending > 0) {
    moult_op_free(call->op);
    call =
        absl::FailedPreconditionError(absl::StrCat(running->method,
                                                   ": the connection becomes a byte stream, but other calls "
                                                   "are under way on it; use a connection of its own"));
  }
  if (!call.ok()) {
    connection.Send(ErrorLine(running->id, call.status()));
    return;
  }
  running->call = *std::move(call);
  ++connection.pending;
  keeper_.Begin(running->call.requested);
  connection.paused = running->call.stream;  // what follows belongs to the stream
  const uint64_t key = running->number;
  if (running->call.disk) {
    worker_.Post([this, key, disk = running->call.disk] {
      absl::StatusOr<Json> outcome = disk();
      Post([this, key, outcome = std::move(outcome)] {
        Finish(key, outcome.status(), outcome.ok() ? *outcome : Json());
      });
    });
  }
  running_.emplace(key, std::move(running));
}

void Server::OpDone(Running& running) {
  Json result;
  const absl::Status outcome = Outcome(running.call.op, &result);
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
  if (running->call.mutates || !outcome.ok()) {
    recent_.push_back({running->method, outcome, elapsed, gone});
    if (recent_.size() > kMaxRecent) recent_.pop_front();
  }
  if (gone && running->call.mutates) {
    Log(outcome.ok() ? 2 : 1, absl::StrCat(running->method, ": its client has gone; outcome: ",
                                           outcome.ok() ? "done" : outcome.message()));
  }
  if (running->call.op != nullptr) FreeOp(running->call.op);
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

void Server::Work(moult_op* op) {
  in_work_.insert(op);
  worker_.Post([this, op] {
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

void Server::CancelAll(const char* why) {
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
  const Clock::time_point now = Clock::now();
  Json calls = Json::array();
  for (const auto& [number, running] : running_) {
    calls.push_back({{"method", running->method},
                     {"elapsed_ms",
                      std::chrono::duration_cast<std::chrono::milliseconds>(now - running->started).count()},
                     {"client_gone", running->connection == 0}});
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
