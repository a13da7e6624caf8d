// SPDX-License-Identifier: Apache-2.0
//
// One guest: its memory, its windows, its connections, and the operations that run on it.
#ifndef MOULT_HOST_SESSION_VM_H_
#define MOULT_HOST_SESSION_VM_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "memory/guest_memory.h"
#include "pager/pager.h"
#include "pool/file/store.h"
#include "reactor/reactor.h"
#include "reactor/task.h"
#include "remote/remote_pager.h"
#include "remote/remote_store.h"
#include "session/connection.h"
#include "serving/serving_threads.h"
#include "session/op.h"
#include "transport/transport.h"
#include "window/window.h"

namespace moult::host {

struct VmConfig {
  std::string name;
  std::string tenant;
  bool cross_tenant = false;
  std::shared_ptr<Store> store;
  TransportConfig transport;
  std::vector<RegionConfig> regions;
  std::vector<WindowConfig> windows;
  Window::ChangedHook memory_changed = [](uint32_t, uint64_t, uint64_t) {};
  // Where offloaded pages go; null: nowhere, no offload.
  std::shared_ptr<PagePool> pool;
  std::function<void(uint64_t function, GuestPhys gpa, const absl::Status& why)> page_lost;
  std::chrono::milliseconds read_deadline = PagerConfig().read_deadline;
  RemoteStoreConfig remote;
  RemoteConfig remote_pager;  // `lost` is the vm's own
  std::shared_ptr<ServingThreads> threads;  // those in ServeFaults, which pools may have to do with; null: the vm's own
  std::function<void(Op*)> work;  // empty: none
  std::function<void(int, const std::string&)> log = [](int, const std::string&) {};
};

// A connection on loan; comes back when it is destroyed.
class Lease {
 public:
  Lease(Vm* vm, std::unique_ptr<Connection> connection) : vm_(vm), connection_(std::move(connection)) {}
  Lease(Lease&&) = default;
  Lease& operator=(Lease&&) = delete;
  ~Lease() { Return(); }
  Connection* operator->() const { return connection_.get(); }
  Connection& operator*() const { return *connection_; }
  void Return();

 private:
  Vm* const vm_;
  std::unique_ptr<Connection> connection_;
};

// Not thread-safe: one thread at a time.
class Vm {
 public:
  using Body = std::function<Task<absl::Status>(Vm*, Op*)>;

  static absl::StatusOr<std::unique_ptr<Vm>> Create(VmConfig config);
  // Ends what runs, with kCancelled.
  ~Vm();

  // Runs `body` from the next Process on. `timeout_ms` 0: `default_ms`. `function`: that it is about, 0: none that is there.
  std::shared_ptr<Op> Start(const char* verb, uint32_t timeout_ms, uint32_t default_ms, Body body, uint64_t function = 0);
  int fd() const { return reactor_->fd(); }
  bool processing() const { return processing_; }
  // How many operations still run.
  size_t Process();
  void GuestReset();
  // How often the guest has begun anew, whoever said so.
  uint64_t boots() const { return boots_; }
  Json Info() const;

  // For operations.
  const VmConfig& config() const { return config_; }
  const GuestMemory& memory() const { return memory_; }
  std::list<Window>& windows() { return windows_; }
  // Null without a pool. May be used by any thread while the vm is there.
  Pager* pager() const { return pager_.get(); }
  // Null without a window. As pager().
  RemotePager* remote_pager() const { return remote_pager_.get(); }
  RemoteStore& remote_store() { return remote_store_; }
  // Serves faults, of pages that are out and of remote templates, until StopFaults. Any number of threads.
  void ServeFaults();
  void StopFaults();
  int fault_servers() const { return config_.threads->count(); }
  // None can be waited for by a pool that has threads read and write for each other.
  absl::Status NeedServers(bool lends) const;
  // Of a function of either kind.
  absl::Status ResolveLost(uint64_t function, Resolution resolution);
  // Why the first of its lost pages was; empty: none was.
  std::string LostBecause(uint64_t function) const;
  // An attach waits for its function, which may be what touches pages of the slot at `at`.
  void Attaching(const std::byte* at, Op* op) { attaching_.insert({at, op}); }
  void NotAttaching(const std::byte* at, Op* op) { attaching_.erase({at, op}); }
  // Functions that may have pages out.
  std::set<uint64_t>& offloaded() { return offloaded_; }
  // Those of them that have ended, and whether what the guest has freed of them was dropped already. The rest comes back
  // by ops::Sweep.
  std::map<uint64_t, bool>& unswept() { return unswept_; }
  size_t unswept_count() const { return unswept_.size(); }
  void LearnEnded(const rpc::ListReplyT& list);
  // Functions whose pages an operation moves or reads now: one at a time. Where that only fetches what a function that runs
  // has not touched yet, a stop of it is possible.
  std::map<uint64_t, std::optional<std::stop_source>>& moving() { return moving_; }
  // What is out in this range, or of a remote template and not here, comes in, without a fault. Blocks on the pool.
  absl::Status Populate(GuestRange range) const;
  // What the guest sees at `range`: its RAM, or template pages in one slot of a window. kOutOfRange: neither.
  absl::StatusOr<absl::Span<const std::byte>> GuestView(GuestRange range) const;
  // What a host address is to the guest, which may show it in a window. kOutOfRange: nothing.
  absl::StatusOr<GuestPhys> AddressOf(const std::byte* hva) const;
  bool single_connection() const { return transport_.single(); }
  // A connection that has said hello.
  Task<absl::StatusOr<Lease>> Acquire(Op* op);
  const rpc::HelloReplyT& hello() const { return hello_; }
  bool has_hello() const { return hello_.version != 0; }
  // The agent says that a function is gone, or that these are all there are.
  void FunctionGone(uint64_t function);
  void Reconcile(const rpc::ListReplyT& list);
  // A function has ended, and what it had is given back by an operation that nobody waits for; that has come to its end.
  void Reclaiming(uint64_t function) { reclaiming_.insert(function); }
  void Reclaimed(uint64_t function, uint64_t bytes, const absl::Status& status);
  void Log(int level, const std::string& message) const { config_.log(level, message); }

 private:
  friend class Lease;
  Vm(VmConfig config, GuestMemory memory, std::unique_ptr<Reactor> reactor);
  absl::Status AddWindows();
  Task<absl::StatusOr<std::unique_ptr<Connection>>> Connect(Op* op);
  // So that the next operation need not wait for a connection to be made.
  void KeepSpare();
  Task<absl::Status> MakeSpare(Op* op);
  std::unique_ptr<Connection> TakeIdle();
  void Return(std::unique_ptr<Connection> connection);
  void TookHello(rpc::HelloReplyT hello);
  void ForgetGuest();
  void ForgetOffloaded();
  void LearnEnded(uint64_t function);
  void ForgetLost(const rpc::ListReplyT& list);
  void OnLost(uint64_t function, GuestPhys gpa, const absl::Status& why);
  void OnRemoteLost(uint64_t function, const std::byte* page, const absl::Status& why);
  void EndLostAttaches();
  void TellDied() const;

  const VmConfig config_;
  const GuestMemory memory_;
  std::unique_ptr<Pager> pager_;
  std::unique_ptr<RemotePager> remote_pager_;
  RemoteStore remote_store_;
  std::set<std::pair<const std::byte*, Op*>> attaching_;
  std::atomic<bool> attach_lost_ = false;
  mutable std::mutex lost_mutex_;
  std::map<uint64_t, std::string> lost_because_;  // by function; guarded by it
  std::set<uint64_t> offloaded_;
  std::map<uint64_t, bool> unswept_;
  std::map<uint64_t, std::optional<std::stop_source>> moving_;
  const std::unique_ptr<Reactor> reactor_;
  Transport transport_;
  std::list<Window> windows_;
  rpc::HelloReplyT hello_;  // the last one; version 0: none yet
  std::set<uint64_t> reclaiming_;
  uint64_t reclaimed_bytes_ = 0;  // since create, of these
  uint64_t operations_ = 0;  // since create
  uint64_t boots_ = 0;

  size_t open_ = 0;  // connections, idle and on loan
  std::vector<std::unique_ptr<Connection>> idle_;
  std::deque<Strand*> waiting_;  // for a connection

  std::vector<std::shared_ptr<Op>> ops_;
  const Op* spare_op_ = nullptr;  // among them
  bool processing_ = false;
};

}  // namespace moult::host

#endif  // MOULT_HOST_SESSION_VM_H_
