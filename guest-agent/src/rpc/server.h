// SPDX-License-Identifier: Apache-2.0
//
// The agent's main process: one thread, one poll loop. It answers what is quick itself, hands the rest to
// workers, and never waits for a peer, a function or a worker.
#ifndef MOULT_RPC_SERVER_H_
#define MOULT_RPC_SERVER_H_

#include <sys/types.h>

#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "function/record.h"
#include "moult/protocol/frame.h"
#include "rpc/config.h"
#include "rpc/connection.h"
#include "rpc/kept_template.h"
#include "rpc/relay.h"
#include "rpc/worker.h"

namespace moult::agent {

// The function that has just started has better use for the CPU than what is made ahead.
inline constexpr std::chrono::milliseconds kRefillDelay{200};

// Verbs after which the connection is a plain stream.
inline bool IsStream(rpc::RequestBody verb) { return verb == rpc::RequestBody::Tunnel || verb == rpc::RequestBody::Logs; }

// The answer to an attach in short of a template that no worker keeps.
absl::Status NotKept(const rpc::AttachT& attach);

class Server {
 public:
  explicit Server(Config config) : config_(std::move(config)) {}

  // Finds the functions of an earlier agent, listens.
  absl::Status Start();
  // Until SIGTERM or SIGINT. Functions go on running.
  absl::Status Run();

 private:
  struct Running {  // a worker
    pid_t pid = 0;
    UniqueFd socket;
    uint64_t function = 0;  // 0: none
    rpc::RequestBody verb{};
    std::shared_ptr<Connection> connection;
    std::unique_ptr<const rpc::RequestT> request;
    bool done = false;  // it has said so
    bool idle = false;  // the same: it waits for its next order
    bool was_frozen = false;
    bool stream = false;
    TemplateKey key;  // of an attach
  };
  struct Standby {  // a worker that waits
    pid_t pid = 0;
    UniqueFd socket;
    TemplateKey key;  // of the template that it keeps; without a digest: none
  };
  struct PendingKill {
    std::shared_ptr<Connection> connection;
    uint64_t call = 0;
    uint64_t function = 0;
  };

  // server.cc: start and loop
  absl::Status PrepareFolders();
  absl::Status Listen();
  void Adopt();
  void AdoptLiving(Function& function);
  void SettleLost();
  void Poll();
  void HandleSignals();
  void Accept(int listener);
  void Reap(pid_t pid, int status);
  void Stop();
  void CloseOverdue();
  void KeepTidy();

  // requests.cc: what comes over a connection
  void Serve(const std::shared_ptr<Connection>& connection);
  void Answer(Connection& connection, uint64_t call, const rpc::ResponseT& response);
  void Refuse(Connection& connection, uint64_t call, const absl::Status& status);
  absl::Status Handle(const std::shared_ptr<Connection>& connection, uint64_t call,
                      const rpc::RequestT& request);
  static void AddWindows(rpc::HelloReplyT& reply);
  absl::Status HandleHello(Connection& connection, uint64_t call, const rpc::HelloT& hello);
  void HandleList(Connection& connection, uint64_t call);
  absl::Status HandleKill(const std::shared_ptr<Connection>& connection, uint64_t call, uint64_t id);
  absl::Status HandleForget(Connection& connection, uint64_t call, uint64_t id);
  absl::Status HandleRelease(Connection& connection, uint64_t call, const rpc::ReleaseT& release);
  absl::Status HandleStart(const std::shared_ptr<Connection>& connection, uint64_t call,
                           const rpc::RequestT& request);
  absl::Status HandleWork(const std::shared_ptr<Connection>& connection, uint64_t call,
                          const rpc::RequestT& request);
  absl::Status HandleTunnel(const std::shared_ptr<Connection>& connection, uint64_t call,
                            const rpc::RequestT& request);
  absl::StatusOr<Function*> Find(uint64_t id);

  // workers.cc
  absl::Status StartWorker(const std::shared_ptr<Connection>& connection, uint64_t call,
                           const rpc::RequestT& request, Function* function);
  absl::Status Fork(const std::shared_ptr<Connection>& connection, uint64_t call,
                    const rpc::RequestT& request, Function* function, Running& worker);
  void ReadReports(Running& worker);
  void Apply(Running& worker, const Report& report);
  void WorkerEnded(std::list<Running>::iterator worker, int status);
  bool Settle(Function& function);
  void FunctionEnded(Function& function, int status);
  void Drop(uint64_t id);
  absl::Status CheckStreams() const;

  // made_ahead.cc
  absl::Status MakeSpare();
  std::list<Standby>::iterator FindStandby(const TemplateKey& key);
  // False: none that waits can do it.
  bool TakeStandby(const std::shared_ptr<Connection>& connection, uint64_t call, const rpc::RequestT& request,
                   const Function* function, Running& worker);
  void TakeIdle();
  void DropKept(uint32_t window, uint64_t offset, uint64_t length);
  absl::StatusOr<std::unique_ptr<Function>> TakeShell();
  void Refill();
  bool IsFull();

  const Config config_;
  bool use_cgroup_ = false;
  bool stopping_ = false;
  uint64_t next_id_ = 1;
  uint64_t next_generation_ = 1;
  std::vector<UniqueFd> listeners_;
  bool unix_listener_ = false;  // the last of them
  UniqueFd signals_;
  std::list<std::shared_ptr<Connection>> connections_;
  std::map<uint64_t, std::unique_ptr<Function>> functions_;
  std::list<std::unique_ptr<Function>> shells_;
  Clock::time_point refill_at_;  // not before: making one takes CPU time
  Clock::time_point tidy_at_;    // KeepTidy is due
  std::list<Running> workers_;
  std::unique_ptr<const rpc::RequestT> serving_;  // while a verb is begun, and in the worker that is forked for it
  std::list<Standby> standby_;   // the one used last is first
  Relay relay_;
  std::vector<PendingKill> kills_;
  std::vector<uint64_t> lost_;  // ids of functions that an earlier agent's worker may still be changing
  std::vector<std::unique_ptr<Cgroup>> leftovers_;  // cgroups that could not be removed yet
};

}  // namespace moult::agent

#endif  // MOULT_RPC_SERVER_H_
