// SPDX-License-Identifier: Apache-2.0
//
// A client's connection with a memory node: one queue pair, authenticated, with memory of its own through which all
// that is read and written goes.
#ifndef MOULT_HOST_POOL_RDMA_CONNECTION_H_
#define MOULT_HOST_POOL_RDMA_CONNECTION_H_

#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "moult/base/status.h"
#include "pool/rdma/auth.h"
#include "pool/rdma/messages.h"
#include "pool/rdma/verbs.h"
#include "pool/template_pool.h"
#include "pool/uri.h"

namespace moult::host::rdma {

// One thread at a time. After an error of the connection itself (not a Failure that the other side tells of) usable() is
// false: what was under way may still be written into its memory, which therefore ends with it.
class Connection {
 public:
  // What one work request moves at most.
  static constexpr size_t kStep = 64 << 10;

  // A name is looked up by the host's resolver, in its own time; give addresses where that counts.
  // kUnavailable: nobody there; kPermissionDenied: the key; kDeadlineExceeded; kFailedPrecondition: no device.
  static absl::StatusOr<std::unique_ptr<Connection>> Open(const PoolNode& node, const TenantKey& key, Clock::time_point deadline);
  // The two halves of it. Before the second nothing else is answered. `introduction` is what a connection request says.
  static absl::StatusOr<std::unique_ptr<Connection>> Connect(const PoolNode& node, const std::string& introduction,
                                                             Clock::time_point deadline);
  absl::Status Authenticate(const TenantKey& key, Clock::time_point deadline);
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection();

  // For who measures, or means harm to the other side.
  Queue& queue() { return *queue_; }
  // Readable when the connection is over.
  int over() const { return events_->fd; }

  // Also false when the other side has ended it meanwhile.
  bool usable();
  // The loan that it was made on, or renewed, last; its user's.
  std::optional<Token> keeps;

  // The answer, or what the memory node's Failure says.
  template <typename Answer>
  absl::StatusOr<Answer> Ask(Request request, Clock::time_point deadline) {
    MOULT_ASSIGN_OR_RETURN(Reply reply, Call(std::move(request), deadline));
    if (auto* answer = std::get_if<Answer>(&reply)) return std::move(*answer);
    usable_ = false;
    return absl::InternalError(absl::StrCat("memory node ", node_.text(), ": answers what was not asked"));
  }

  // `offset` of each piece is one in the region. kPermissionDenied: the memory node has taken the region back.
  absl::Status Read(const Region& region, absl::Span<const PoolPiece> pieces, Clock::time_point deadline);
  // Of the pieces it only reads.
  absl::Status Write(const Region& region, absl::Span<const PoolPiece> pieces, Clock::time_point deadline);
  absl::Status Write(const Region& region, uint64_t offset, absl::Span<const std::byte> bytes, Clock::time_point deadline);

 private:
  Connection(const Api* api, PoolNode node) : api_(api), node_(std::move(node)) {}
  // What is to be connected; the answer is an event.
  absl::Status Begin(const std::string& introduction, Clock::time_point deadline);
  // Of those whose request is under way; how many there are: of none, until then.
  static absl::StatusOr<size_t> FirstWithAnEvent(absl::Span<const std::unique_ptr<Connection>> asked, Clock::time_point until);
  absl::Status MakeQueuePair();
  absl::Status WaitFor(rdma_cm_event_type wanted, Clock::time_point deadline);
  absl::StatusOr<Reply> Call(Request request, Clock::time_point deadline);
  // `prepare` and `finish` are given (place in bounce memory, offset in the region).
  template <typename Prepare, typename Finish>
  absl::Status Transfer(ibv_wr_opcode operation, const Region& region, absl::Span<const PoolPiece> pieces,
                        Clock::time_point deadline, Prepare prepare, Finish finish);
  absl::Status Annotated(const absl::Status& status) const;

  const Api* const api_;
  const PoolNode node_;
  // In this order, so that they end in the other.
  EventChannel events_;
  CmId id_;
  ProtectionDomain domain_;
  Memory bounce_;
  MemoryRegion bounce_region_;
  std::unique_ptr<Queue> queue_;
  uint32_t number_ = 0;
  bool usable_ = true;
};

}  // namespace moult::host::rdma

#endif  // MOULT_HOST_POOL_RDMA_CONNECTION_H_
