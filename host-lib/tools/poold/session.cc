// SPDX-License-Identifier: Apache-2.0
#include "session.h"

#include <sys/eventfd.h>

#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "moult/base/quiet_thread.h"
#include "moult/base/status.h"

namespace moult::poold {

using host::rdma::Clock;
using host::rdma::Reply;
using host::rdma::Request;

namespace {

constexpr auto kHandshakeTime = std::chrono::seconds(5);
constexpr auto kSendTime = std::chrono::seconds(5);
// A client whose host has died says nothing any more: it is asked.
constexpr auto kSilence = std::chrono::seconds(10);
constexpr uint8_t kRnrRetries = 6;  // 7 would be for ever
constexpr int kMaxReads = 16;

absl::Status Denied() { return absl::PermissionDeniedError("the key is not the tenant's; look at the key files of both sides"); }

template <typename T>
absl::StatusOr<Reply> AsReply(absl::StatusOr<T> answer) {
  if (!answer.ok()) return answer.status();
  return Reply(*std::move(answer));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Session>> Session::Accept(Setting setting, host::rdma::CmId id, uint8_t reads) {
  ibv_device_attr device{};
  if (setting.api->query_device(id->verbs, &device) != 0) return ErrnoStatus("query the device");
  const auto allowed = static_cast<uint8_t>(std::min<int>({reads, kMaxReads, device.max_qp_rd_atom}));
  std::unique_ptr<Session> session(new Session(std::move(setting), std::move(id)));
  MOULT_RETURN_IF_ERROR(session->Prepare(allowed));
  rdma_conn_param parameters{};
  parameters.responder_resources = allowed;
  parameters.rnr_retry_count = kRnrRetries;
  parameters.qp_num = session->queue_pair_->qp_num;
  if (session->setting_.api->accept(session->id_.get(), &parameters) != 0) return ErrnoStatus("accept a connection");
  session->thread_ = StartQuietThread([raw = session.get()] { raw->Run(); });
  return session;
}

absl::Status Session::Prepare(uint8_t reads) {
  stop_.Reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!stop_.valid()) return ErrnoStatus("eventfd");
  MOULT_ASSIGN_OR_RETURN(queue_, host::rdma::Queue::Create(id_->verbs, setting_.domain));
  ibv_qp_init_attr attributes = queue_->attributes();
  // Not by the connection manager, which would give it the right to be read and written from the start.
  queue_pair_.reset(setting_.api->create_qp(setting_.domain, &attributes));
  if (queue_pair_ == nullptr) return ErrnoStatus("create a queue pair");
  MOULT_RETURN_IF_ERROR(Move(IBV_QPS_INIT, reads));
  MOULT_RETURN_IF_ERROR(queue_->Attach(queue_pair_.get()));
  MOULT_RETURN_IF_ERROR(Move(IBV_QPS_RTR, reads));
  return Move(IBV_QPS_RTS, reads);
}

absl::Status Session::Move(ibv_qp_state state, uint8_t reads) {
  ibv_qp_attr attributes{};
  attributes.qp_state = state;
  int mask = 0;
  if (setting_.api->init_qp_attr(id_.get(), &attributes, &mask) != 0) return ErrnoStatus("ask for a queue pair's attributes");
  if (state == IBV_QPS_INIT) attributes.qp_access_flags = 0;
  if (state == IBV_QPS_RTR) attributes.max_dest_rd_atomic = reads;
  const int error = setting_.api->modify_qp(queue_pair_.get(), &attributes, mask);
  return error == 0 ? absl::OkStatus() : ErrnoStatus(error, "connect a queue pair");
}

Session::~Session() {
  Stop();
  if (thread_.joinable()) thread_.join();
  setting_.api->disconnect(id_.get());
}

void Session::Stop() {
  const uint64_t one = 1;
  (void)!write(stop_.get(), &one, sizeof one);
}

void Session::Run() {
  (void)Serve();
  push_.reset();
  queue_pair_.reset();  // With it all access ends.
  // Who gave up waiting would else have to wait for the grace period before he can borrow as much again.
  if (untold_) {
    (void)setting_.loans->GiveBack(setting_.tenant, *untold_);
    kept_.erase(*untold_);
  }
  for (const host::rdma::Token& token : kept_) setting_.loans->Leave(token);
  ended_ = true;
  setting_.ended();
}

absl::StatusOr<std::string> Session::NextRequest(Clock::time_point handshake_end) {
  for (;;) {
    auto bytes = queue_->Receive(ready_ ? Clock::now() + kSilence : handshake_end, stop_.get());
    if (!ready_ || !absl::IsDeadlineExceeded(bytes.status())) return bytes;
    MOULT_RETURN_IF_ERROR(queue_->Probe(Clock::now() + kSendTime));
  }
}

absl::Status Session::Serve() {
  const auto handshake_end = Clock::now() + kHandshakeTime;
  for (;;) {
    MOULT_ASSIGN_OR_RETURN(const std::string bytes, NextRequest(handshake_end));
    MOULT_ASSIGN_OR_RETURN(auto request, host::rdma::ParseRequest(bytes));  // Who sends anything else is done with.
    auto reply = Answer(std::move(request.content));
    const bool denied = !ready_ && !reply.ok();
    host::rdma::Message<Reply> message{request.number, reply.ok() ? *std::move(reply) : Reply(host::rdma::FailureOf(reply.status()))};
    absl::Status sent = queue_->Send(host::rdma::Encode(message), Clock::now() + kSendTime);
    // A denial is to arrive before the queue pair ends under it, and a loan is to be somebody's.
    if (sent.ok() && (denied || untold_)) sent = queue_->Flush(Clock::now() + kSendTime);
    if (!sent.ok() || denied) return sent;
    untold_.reset();
  }
}

absl::StatusOr<Reply> Session::Answer(Request request) {
  return ready_ ? AnswerTenant(std::move(request)) : Authenticate(request);
}

absl::StatusOr<Reply> Session::Authenticate(const Request& request) {
  if (const auto* hello = std::get_if<host::rdma::Hello>(&request); hello != nullptr && !challenged_) {
    ibv_qp_attr attributes{};
    ibv_qp_init_attr unused{};
    if (setting_.api->query_qp(queue_pair_.get(), &attributes, IBV_QP_DEST_QPN, &unused) != 0) return ErrnoStatus("query a queue pair");
    challenged_ = true;
    handshake_ = {{}, hello->nonce, host::rdma::RandomNonce(), attributes.dest_qp_num, queue_pair_->qp_num};
    return Reply(host::rdma::Challenge{handshake_.server_nonce});
  }
  const auto* proof = std::get_if<host::rdma::Proof>(&request);
  if (proof == nullptr || !challenged_) return absl::UnauthenticatedError("prove first who you are");
  if (setting_.tenant == nullptr) return Denied();
  handshake_.tenant = host::rdma::IdOf(setting_.tenant->tenant);
  if (!host::rdma::SameMac(proof->mac, host::rdma::ClientProof(*setting_.tenant, handshake_))) return Denied();
  ibv_qp_attr attributes{};
  attributes.qp_access_flags = IBV_ACCESS_REMOTE_READ | (setting_.tenant->read_only ? 0u : unsigned{IBV_ACCESS_REMOTE_WRITE});
  const int error = setting_.api->modify_qp(queue_pair_.get(), &attributes, IBV_QP_ACCESS_FLAGS);
  if (error != 0) return ErrnoStatus(error, "open a queue pair for reads");
  ready_ = true;
  return Reply(host::rdma::Welcome{host::rdma::ServerProof(*setting_.tenant, handshake_)});
}

absl::StatusOr<Reply> Session::AnswerTenant(Request request) {
  const host::rdma::TenantKey& tenant = *setting_.tenant;
  Exports& exports = *setting_.exports;
  if (auto* list = std::get_if<host::rdma::List>(&request)) return AsReply(exports.List(tenant.tenant, list->after));
  if (auto* open = std::get_if<host::rdma::Open>(&request)) return AsReply(exports.Open(tenant.tenant, open->name, setting_.domain));
  if (std::holds_alternative<host::rdma::Use>(request)) {
    MOULT_ASSIGN_OR_RETURN(host::rdma::Used used, exports.Use(tenant.tenant));
    used.lent_bytes = setting_.loans->LentTo(&tenant);
    used.lend_limit_bytes = setting_.loans->limit();
    return Reply(used);
  }
  if (tenant.read_only) return absl::PermissionDeniedError("the tenant's key is read-only at this memory node");
  if (auto* remove = std::get_if<host::rdma::Remove>(&request)) {
    MOULT_RETURN_IF_ERROR(exports.Remove(tenant.tenant, remove->name));
    return Reply(host::rdma::Done{});
  }
  if (auto* begin = std::get_if<host::rdma::PushBegin>(&request)) {
    push_.reset();  // One that was left: its memory is given back first.
    MOULT_ASSIGN_OR_RETURN(push_, exports.BeginPush(begin->name, begin->layout, setting_.domain));
    return Reply(host::rdma::PushTo{push_->region()});
  }
  if (std::holds_alternative<host::rdma::PushCommit>(request)) {
    if (push_ == nullptr) return absl::FailedPreconditionError("no push is under way on this connection");
    MOULT_RETURN_IF_ERROR(exports.CommitPush(tenant.tenant, std::move(push_)));
    return Reply(host::rdma::Done{});
  }
  return AnswerBorrower(request);
}

absl::StatusOr<Reply> Session::AnswerBorrower(const Request& request) {
  Loans& loans = *setting_.loans;
  if (const auto* borrow = std::get_if<host::rdma::Borrow>(&request)) {
    MOULT_ASSIGN_OR_RETURN(const host::rdma::Lent lent, loans.Borrow(setting_.tenant, setting_.domain, borrow->bytes));
    kept_.insert(lent.token);
    untold_ = lent.token;
    return Reply(lent);
  }
  if (const auto* renew = std::get_if<host::rdma::Renew>(&request)) {
    const bool kept = kept_.count(renew->token) != 0;
    MOULT_ASSIGN_OR_RETURN(const host::rdma::Lent lent, loans.Renew(setting_.tenant, setting_.domain, renew->token, !kept));
    kept_.insert(lent.token);
    return Reply(lent);
  }
  if (const auto* back = std::get_if<host::rdma::GiveBack>(&request)) {
    MOULT_RETURN_IF_ERROR(loans.GiveBack(setting_.tenant, back->token));
    kept_.erase(back->token);
    return Reply(host::rdma::Done{});
  }
  return absl::FailedPreconditionError("this connection is authenticated already");
}

}  // namespace moult::poold
