// SPDX-License-Identifier: Apache-2.0
//
// Connections of a vm: made, said hello on, lent, returned.
#include <algorithm>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "moult/protocol/frame.h"
#include "session/vm.h"

namespace moult::host {
namespace {

constexpr size_t kMaxConnections = 8;
// Idle ones that there are to be: a repurpose takes two.
constexpr size_t kSpares = 2;
constexpr std::chrono::milliseconds kQuiet(200);
constexpr uint32_t kSpareMs = 10000;
// Somebody who listens and does not say hello is no agent.
constexpr std::chrono::seconds kHelloTimeout(5);

// Takes a strand off the list of those that wait, however its wait ends.
class Waiting {
 public:
  Waiting(std::deque<Strand*>* list, Strand* strand) : list_(list), strand_(strand) {
    list_->push_back(strand_);
  }
  Waiting(const Waiting&) = delete;
  ~Waiting() { std::erase(*list_, strand_); }

 private:
  std::deque<Strand*>* const list_;
  Strand* const strand_;
};

// A shorter deadline for a part of an operation.
class Sooner {
 public:
  Sooner(Strand* strand, Clock::duration most) : strand_(strand), old_(strand->deadline()) {
    strand_->set_deadline(std::min(old_, Clock::now() + most));
  }
  Sooner(const Sooner&) = delete;
  ~Sooner() { strand_->set_deadline(old_); }

 private:
  Strand* const strand_;
  const Clock::time_point old_;
};

// One of the open connections; counted down unless it was made.
class Opening {
 public:
  explicit Opening(size_t* open) : open_(open) { ++*open_; }
  Opening(const Opening&) = delete;
  ~Opening() {
    if (open_ != nullptr) --*open_;
  }
  void Keep() { open_ = nullptr; }

 private:
  size_t* open_;
};

}  // namespace

void Lease::Return() {
  if (connection_ != nullptr) vm_->Return(std::move(connection_));
}

void Vm::Return(std::unique_ptr<Connection> connection) {
  if (connection->broken()) {
    --open_;
    connection.reset();
  } else {
    idle_.push_back(std::move(connection));
  }
  if (!waiting_.empty()) waiting_.front()->Wake();
}

std::unique_ptr<Connection> Vm::TakeIdle() {
  while (!idle_.empty()) {
    std::unique_ptr<Connection> connection = std::move(idle_.back());
    idle_.pop_back();
    if (connection->IsQuiet()) return connection;
    --open_;  // Closed by the agent meanwhile, or it says what nobody asked.
  }
  return nullptr;
}

void Vm::TookHello(rpc::HelloReplyT hello) {
  if (hello_.version != 0 && hello_.boot_id != hello.boot_id) {
    Log(1, absl::StrCat("the guest has booted again, boot ", hello.boot_id, " after ", hello_.boot_id, ": its functions are gone"));
    // What was to be done to one of them must not be done to one of the new guest that has its number.
    for (const auto& op : ops_) {
      if (op->result().function != 0) op->strand()->Abort(absl::AbortedError("the guest has booted again: its functions are gone"));
    }
    ForgetGuest();
  }
  hello_ = std::move(hello);
  const bool asks = absl::c_linear_search(hello_.features, "release");
  for (Window& window : windows_) window.set_asks(asks);
}

Task<absl::StatusOr<std::unique_ptr<Connection>>> Vm::Connect(Op* op) {
  Opening opening(&open_);
  const Sooner sooner(op->strand(), kHelloTimeout);
  auto fd = co_await transport_.Connect(op->strand());
  if (!fd.ok()) co_return fd.status();
  auto connection = std::make_unique<Connection>(*std::move(fd));
  rpc::HelloT hello;
  hello.version_min = hello.version_max = rpc::kProtocolVersion;
  hello.client = config_.name.substr(0, 64);
  auto reply = co_await connection->Call<rpc::HelloReplyT>(op->strand(), std::move(hello));
  if (!reply.ok()) co_return reply.status();
  if (reply->version != rpc::kProtocolVersion) {
    co_return absl::FailedPreconditionError(absl::StrCat("the agent chose protocol version ", reply->version,
                                                         ", offered was ", rpc::kProtocolVersion));
  }
  TookHello(*std::move(reply));
  opening.Keep();
  co_return std::move(connection);
}

Task<absl::StatusOr<Lease>> Vm::Acquire(Op* op) {
  const size_t most = transport_.single() ? 1 : kMaxConnections;
  for (;;) {
    std::unique_ptr<Connection> connection = TakeIdle();
    if (connection == nullptr && open_ >= most) {
      const Waiting waiting(&waiting_, op->strand());
      MOULT_CO_RETURN_IF_ERROR(co_await op->strand()->ForWake("free connection to the agent"));
      continue;
    }
    if (connection == nullptr) {
      auto made = co_await Connect(op);
      if (!made.ok()) {
        if (!waiting_.empty()) waiting_.front()->Wake();  // Who waits must try for himself.
        co_return made.status();
      }
      connection = *std::move(made);
    }
    Lease lease(this, std::move(connection));
    MOULT_CO_RETURN_IF_ERROR(op->strand()->interruption());  // the guest may have turned out to be another
    op->EndPhase("connect");
    co_return std::move(lease);
  }
}

void Vm::KeepSpare() {
  if (transport_.single() || hello_.version == 0 || spare_op_ != nullptr) return;
  if (idle_.size() >= kSpares || open_ + kSpares >= kMaxConnections) return;
  spare_op_ = Start("spare", 0, kSpareMs, [](Vm* vm, Op* op) { return vm->MakeSpare(op); }).get();
}

Task<absl::Status> Vm::MakeSpare(Op* op) {
  // Not while the guest has something better to do.
  const auto deadline = op->strand()->deadline();
  op->strand()->set_deadline(Clock::now() + kQuiet);
  const absl::Status waited = co_await op->strand()->ForWake("quiet");
  if (!absl::IsDeadlineExceeded(waited)) co_return waited;
  op->strand()->set_deadline(deadline);
  while (idle_.size() < kSpares && open_ < kMaxConnections) {
    auto made = co_await Connect(op);
    if (!made.ok()) co_return made.status();
    Return(*std::move(made));
  }
  co_return absl::OkStatus();
}

}  // namespace moult::host
