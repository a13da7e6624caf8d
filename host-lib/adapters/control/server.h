// SPDX-License-Identifier: Apache-2.0
//
// The control server: clients of a unix socket command a vm. It knows moult.h and sockets, and no VMM.
#ifndef MOULT_ADAPTERS_CONTROL_SERVER_H_
#define MOULT_ADAPTERS_CONTROL_SERVER_H_

#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "connection.h"
#include "function_names.h"
#include "keeper.h"
#include "methods.h"
#include "pump.h"
#include "sweeper.h"
#include "worker.h"

namespace moult::control {

struct ServerOptions {
  Target target;
  // Joined to the result of `status` under "embedder". Called on the thread in Run(). May be empty.
  std::function<Json()> describe;
  std::function<void(int level, const std::string& message)> log;  // as moult_vm_options.log
  // Called on the thread in Run() once a second. May be empty.
  std::function<void()> each_second;
};

// Threads: Run() on one thread, which the vm belongs to meanwhile. Post() and Stop() from any.
class Server {
 public:
  // `listener`: from Listen().
  static absl::StatusOr<std::unique_ptr<Server>> Create(UniqueFd listener, ServerOptions options);
  ~Server();

  // Serves until Stop(). Calls that are under way then are cancelled by whoever closes the vm.
  void Run();
  void Stop();
  // Has `task` run on the thread in Run().
  void Post(std::function<void()> task);
  // What moult_vm_options.work is for: does the disk work of `op` on a thread of its own. On the thread in
  // Run().
  void Work(moult_op* op);
  // Cancels everything that could have run code of a window: the embedder could not drop old translations.
  // On the thread in Run().
  void CancelAll(const char* why);

 private:
  using Clock = std::chrono::steady_clock;
  struct Running {
    Server* server;
    uint64_t number;
    uint64_t connection;  // 0: its client has gone
    Json id;
    std::string method;
    Call call;
    Clock::time_point started;
    Clock::time_point next_progress;
    uint64_t held = 0;  // the function that policies leave alone meanwhile
    // Not begun, since a policy is at the function: what it will be begun with.
    std::optional<Json> waiting = {};
    bool interrupted = false;
  };
  struct Stream {
    std::unique_ptr<Pump> pump;
    uint64_t requested;  // Call::requested
  };
  struct Recent {
    std::string method;
    absl::Status outcome;
    int64_t elapsed_ms;
    bool client_gone;
  };

  Server(UniqueFd listener, UniqueFd wake, ServerOptions options);

  void PollOnce();
  void SeeBoots();
  int PollTimeout() const;
  void AcceptClients();
  void Serve(uint64_t number, Connection& connection, short events);
  void TakeLines(uint64_t number, Connection& connection);
  void HandleLine(uint64_t number, Connection& connection, const std::string& line);
  void StartCall(uint64_t number, Connection& connection, Request request);
  absl::StatusOr<Json> Immediate(uint64_t number, const Request& request, bool* handled);
  void StartPolicy(Running& running, const Json& params);
  absl::Status Begin(Running& running, const Json& params);
  void BeginWaiting();
  void FinishWaiting(const absl::Status& why);
  Clock::time_point NextWaiting() const;
  Json Status();
  void OpDone(Running& running);
  void Finish(uint64_t number, const absl::Status& outcome, const Json& result);
  void OpenStream(Running& running, const Json& result);
  void SendProgress();
  void Drop(uint64_t connection);
  void Sweep();
  void RunPosted();
  void OnDisk(std::function<void()> task);
  void FreeOp(moult_op* op);
  void Wake();
  void Log(int level, const std::string& message) const;

  UniqueFd listener_;
  UniqueFd wake_;
  const ServerOptions options_;
  uint64_t next_number_ = 1;
  Clock::time_point accepts_from_{};  // after it could not
  Clock::time_point next_second_ = Clock::time_point::min();
  std::map<uint64_t, std::unique_ptr<Connection>> connections_;
  std::vector<Stream> streams_;
  std::map<uint64_t, std::unique_ptr<Running>> running_;
  std::deque<Recent> recent_;
  std::set<moult_op*> in_work_;  // on the worker's list, or run by it
  std::set<moult_op*> to_free_;  // ended while in_work_
  std::mutex mutex_;             // of posted_
  std::vector<std::function<void()>> posted_;
  std::atomic<bool> stop_ = false;
  uint64_t boots_ = 0;  // of the guest, that were seen
  FunctionNames names_;
  Keeper keeper_;
  Sweeper sweeper_;
  Worker worker_;  // the last member: it stops before the others go
};

}  // namespace moult::control

#endif  // MOULT_ADAPTERS_CONTROL_SERVER_H_
