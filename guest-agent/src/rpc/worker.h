// SPDX-License-Identifier: Apache-2.0
//
// A worker: a fork of the agent that does a verb that takes time. It has the connection until the verb
// ends, and tells the agent what changed through a socket of packets.
#ifndef MOULT_RPC_WORKER_H_
#define MOULT_RPC_WORKER_H_

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "function/endpoint.h"
#include "function/record.h"
#include "image/phases.h"
#include "moult/protocol/channel.h"
#include "rpc/config.h"
#include "rpc/kept_template.h"

namespace moult::agent {

// What a worker tells. Fields that are not set do not change.
struct Report {
  std::optional<rpc::FunctionState> state = std::nullopt;
  std::optional<int> pid = std::nullopt;
  std::optional<int> inner_pid = std::nullopt;
  std::optional<std::string> end_reason = std::nullopt;
  bool drop = false;  // the function never came to be: forget it
  bool done = false;  // the verb is over: another may change the function
  bool confirm = false;  // the agent answers with a packet once it has saved this
  bool idle =
      false;  // the worker has a template, and waits for its next attach; the connection is the agent's again
};
std::string EncodeReport(const Report& report);
absl::StatusOr<Report> DecodeReport(std::string_view text);
inline constexpr size_t kMaxReport = 8192;

// For the tasks of a function to stop, the verb's deadline permitting.
inline constexpr std::chrono::seconds kFreezeTime{10};

// How a worker leaves the connection: its exit status.
enum class WorkerExit : int { kKeepConnection = 0, kCloseConnection = 3 };

// Whether data frames come behind the request.
bool HasData(const rpc::RequestT& request);

struct Worker {
  Worker(const Config& agent_config, UniqueFd connection, uint64_t call_id, const rpc::RequestT& what,
         Function* whose, int agent_socket);

  const Config& config;
  rpc::Channel channel;
  const uint64_t call;  // id of the request's frame
  const rpc::RequestT& request;
  Function* function;          // as it was when the verb began; null: the verb has none
  int agent;                   // socket to the agent
  Clock::time_point deadline;  // of the verb
  engine::Phases phases = {};
  bool answered = false;               // `call` was: an error after it can only close the connection
  bool data_due;                       // the request's: nobody could tell what is left of it from a request
  std::unique_ptr<KeptTemplate> kept;  // what the worker waits with after this verb; null: it ends

  Watch MakeWatch() const;
  // For the host to take an answer, or to send the rest of a request.
  Clock::time_point MessageDeadline() const { return Clock::now() + std::chrono::milliseconds(config.message_ms); }
  // False when the agent has gone, or the host.
  bool MayGoOn() const;
  // False: the agent has gone. One that is back reads the truth from /proc.
  bool Tell(const Report& report) const;
  // The same, and waits until the agent has saved it. False: it has ended, perhaps before that.
  bool TellAndConfirm(Report report) const;
  // An error that comes of the function's end says so: kAborted. For failures while it was worked on, when
  // nothing of the engine holds it any more.
  absl::Status Explain(const absl::Status& status) const;
  absl::Status Respond(const rpc::ResponseT& response);
  // Data of the call, each piece within MessageDeadline, all of it within the verb's.
  absl::Status SendData(absl::Span<const std::byte> data);
  // The answer of Run, Attach, Freeze, Thaw.
  absl::Status RespondFunction(std::vector<std::string> notes);
  // Waits for the request that ends a capture or a detach; any other is answered with an error, and waited
  // on. Also ends with kCancelled when the host has gone, kAborted when the function has.
  absl::StatusOr<std::unique_ptr<rpc::RequestT>> AwaitEnd(rpc::RequestBody wanted, uint64_t* end_call);
};

std::vector<std::unique_ptr<rpc::PhaseT>> ToPhases(const engine::Phases& phases);

// The verbs. Each answers by itself when it is OK; on an error it has undone what it did, and the caller
// answers.
absl::Status DoRun(Worker& worker);
absl::Status DoAttach(Worker& worker);
absl::Status DoCapture(Worker& worker);
absl::Status DoDetach(Worker& worker);
absl::Status DoFreeze(Worker& worker);
absl::Status DoThaw(Worker& worker);
absl::Status DoDoctor(Worker& worker);
absl::Status DoPages(Worker& worker);
// The connection is no use any more after these two have answered.
absl::Status DoTunnel(Worker& worker);
absl::Status DoLogs(Worker& worker);

// Does the worker's verb, and answers.
WorkerExit Work(Worker& worker);

}  // namespace moult::agent

#endif  // MOULT_RPC_WORKER_H_
