// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_POOLD_SESSION_H_
#define MOULT_POOLD_SESSION_H_

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "exports.h"
#include "loans.h"
#include "moult/base/unique_fd.h"
#include "pool/rdma/auth.h"
#include "pool/rdma/verbs.h"

namespace moult::poold {

// One connection, and the thread that serves its messages. Its queue pair gives no access to memory until the client has
// proved that it has the tenant's key; what is read then, the device serves alone.
// Made, stopped and destroyed by the main thread, as all of the connection manager's calls are.
class Session {
 public:
  struct Setting {
    const host::rdma::Api* api;
    Exports* exports;
    Loans* loans;
    const host::rdma::TenantKey* tenant;  // null: unknown
    ibv_pd* domain;
    std::function<void()> ended;  // called from the session's thread
  };
  // Accepts the connection request that `id` stands for, with as many reads at once as it asks for and the device allows.
  static absl::StatusOr<std::unique_ptr<Session>> Accept(Setting setting, host::rdma::CmId id, uint8_t reads);
  ~Session();

  void Stop();
  bool ended() const { return ended_; }
  bool ready() const { return ready_; }
  const host::rdma::TenantKey* tenant() const { return setting_.tenant; }

 private:
  Session(Setting setting, host::rdma::CmId id) : setting_(std::move(setting)), id_(std::move(id)) {}
  absl::Status Prepare(uint8_t reads);
  absl::Status Move(ibv_qp_state state, uint8_t reads);
  void Run();
  // Until it ends, and why.
  absl::Status Serve();
  absl::StatusOr<std::string> NextRequest(host::rdma::Clock::time_point handshake_end);
  absl::StatusOr<host::rdma::Reply> Answer(host::rdma::Request request);
  absl::StatusOr<host::rdma::Reply> Authenticate(const host::rdma::Request& request);
  absl::StatusOr<host::rdma::Reply> AnswerTenant(host::rdma::Request request);
  absl::StatusOr<host::rdma::Reply> AnswerBorrower(const host::rdma::Request& request);

  const Setting setting_;
  // In this order, so that they end in the other.
  host::rdma::CmId id_;
  std::unique_ptr<host::rdma::Queue> queue_;
  host::rdma::QueuePair queue_pair_;
  std::unique_ptr<Push> push_;
  std::set<host::rdma::Token> kept_;         // loans that this connection keeps
  std::optional<host::rdma::Token> untold_;  // the one of them whose reply has not arrived yet
  host::rdma::Handshake handshake_{};
  bool challenged_ = false;
  UniqueFd stop_;
  std::atomic<bool> ready_ = false;
  std::atomic<bool> ended_ = false;
  std::thread thread_;
};

}  // namespace moult::poold

#endif  // MOULT_POOLD_SESSION_H_
