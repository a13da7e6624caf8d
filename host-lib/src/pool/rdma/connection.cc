// SPDX-License-Identifier: Apache-2.0
#include "pool/rdma/connection.h"

#include <fcntl.h>
#include <netdb.h>
#include <poll.h>

#include <algorithm>
#include <cstring>

namespace moult::host::rdma {
namespace {

constexpr uint8_t kReadsUnderWay = 16;  // every RC device takes so many
// Each attempt that is not acknowledged waits 4.096 us << 16, 268 ms: seven fill two seconds, then the other side is gone.
constexpr uint8_t kAckTimeout = 16;
constexpr uint8_t kRetries = 7;
// What the wire loses of a connection's making, the connection manager sends again after several seconds only: until then
// there is another request beside it.
constexpr auto kFirstPatience = std::chrono::seconds(1);
constexpr int kRejectedByProgram = 28;  // IB_CM_REJ_CONSUMER_DEFINED

absl::StatusOr<std::unique_ptr<addrinfo, void (*)(addrinfo*)>> Resolve(const PoolNode& node) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(node.host.c_str(), std::to_string(node.port).c_str(), &hints, &found);
  if (error != 0) return absl::UnavailableError(absl::StrCat("look up its address: ", gai_strerror(error)));
  return std::unique_ptr<addrinfo, void (*)(addrinfo*)>(found, freeaddrinfo);
}

absl::Status EventError(const Api& api, rdma_cm_event_type event, int status) {
  if (event == RDMA_CM_EVENT_REJECTED) {
    return absl::UnavailableError(status == kRejectedByProgram ? "it takes no more connections now"
                                                               : "nobody listens there; is moult-poold running?");
  }
  if (status == -ENODEV) {
    return absl::FailedPreconditionError(
        "the way to it is through a network interface without an RDMA device; rdma link add rxe0 type rxe netdev "
        "INTERFACE makes a software one");
  }
  return absl::UnavailableError(absl::StrCat("connect: ", api.event_str(event), status < 0 ? ", " : "",
                                             status < 0 ? ErrnoName(-status) : ""));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Connection>> Connection::Connect(const PoolNode& node, const std::string& introduction,
                                                                Clock::time_point deadline) {
  MOULT_ASSIGN_OR_RETURN(const Api* api, LoadApiWithDevice());
  std::vector<std::unique_ptr<Connection>> asked;
  for (Clock::duration patience = kFirstPatience;; patience *= 2) {
    asked.emplace_back(new Connection(api, node));
    absl::Status status = asked.back()->Begin(introduction, deadline);
    if (!status.ok()) return asked.back()->Annotated(status);
    const auto until = std::min(deadline, Clock::now() + patience);
    MOULT_ASSIGN_OR_RETURN(const size_t first, FirstWithAnEvent(asked, until));
    if (first < asked.size()) {
      status = asked[first]->WaitFor(RDMA_CM_EVENT_ESTABLISHED, deadline);
      if (!status.ok()) return asked[first]->Annotated(status);
      return std::move(asked[first]);
    }
    if (until == deadline) return asked.back()->Annotated(absl::DeadlineExceededError("connect: no answer in time"));
  }
}

absl::StatusOr<std::unique_ptr<Connection>> Connection::Open(const PoolNode& node, const TenantKey& key,
                                                             Clock::time_point deadline) {
  MOULT_ASSIGN_OR_RETURN(auto connection, Connect(node, Encode(Introduction{IdOf(key.tenant)}), deadline));
  MOULT_RETURN_IF_ERROR(connection->Authenticate(key, deadline));
  return connection;
}

Connection::~Connection() {
  if (id_ == nullptr || id_->qp == nullptr) return;
  api_->disconnect(id_.get());
  api_->destroy_cm_qp(id_.get());
}

absl::Status Connection::Annotated(const absl::Status& status) const {
  if (absl::IsCancelled(status)) return Annotated(absl::UnavailableError("ended the connection"));
  return Annotate(status, absl::StrCat("memory node ", node_.text()));
}

bool Connection::usable() {
  pollfd wait{events_->fd, POLLIN, 0};
  // Whatever it is that happened to an established connection: it is over.
  if (usable_ && poll(&wait, 1, 0) != 0) usable_ = false;
  return usable_;
}

absl::StatusOr<size_t> Connection::FirstWithAnEvent(absl::Span<const std::unique_ptr<Connection>> asked, Clock::time_point until) {
  std::vector<pollfd> waits;
  for (const auto& connection : asked) waits.push_back({connection->over(), POLLIN, 0});
  for (;;) {
    const int ready = poll(waits.data(), waits.size(), MillisecondsTo(until));
    if (ready < 0 && errno != EINTR) return ErrnoStatus("connect: poll");
    if (ready < 0) continue;
    return static_cast<size_t>(std::find_if(waits.begin(), waits.end(), [](const pollfd& wait) { return wait.revents != 0; }) - waits.begin());
  }
}

absl::Status Connection::WaitFor(rdma_cm_event_type wanted, Clock::time_point deadline) {
  pollfd wait{events_->fd, POLLIN, 0};
  for (;;) {
    const int ready = poll(&wait, 1, MillisecondsTo(deadline));
    if (ready < 0 && errno != EINTR) return ErrnoStatus("poll");
    if (ready == 0) return absl::DeadlineExceededError("connect: no answer in time");
    rdma_cm_event* event = nullptr;
    if (ready < 0 || api_->get_cm_event(events_.get(), &event) != 0) continue;
    const rdma_cm_event_type kind = event->event;
    const int status = event->status;
    api_->ack_cm_event(event);
    return kind == wanted && status == 0 ? absl::OkStatus() : EventError(*api_, kind, status);
  }
}

absl::Status Connection::MakeQueuePair() {
  domain_.reset(api_->alloc_pd(id_->verbs));
  if (domain_ == nullptr) return ErrnoStatus("allocate a protection domain");
  MOULT_ASSIGN_OR_RETURN(bounce_, Memory::Map(Queue::kMaxWork * kStep, "pages on their way"));
  MOULT_ASSIGN_OR_RETURN(bounce_region_, RegisterLocal(domain_.get(), bounce_.bytes()));
  MOULT_ASSIGN_OR_RETURN(queue_, Queue::Create(id_->verbs, domain_.get()));
  ibv_qp_init_attr attributes = queue_->attributes();
  if (api_->create_cm_qp(id_.get(), domain_.get(), &attributes) != 0) return ErrnoStatus("create a queue pair");
  return queue_->Attach(id_->qp);
}

absl::Status Connection::Begin(const std::string& introduction, Clock::time_point deadline) {
  MOULT_ASSIGN_OR_RETURN(const auto address, Resolve(node_));
  events_.reset(api_->create_event_channel());
  if (events_ == nullptr) return ErrnoStatus("create an event channel; modprobe rdma_ucm");
  if (fcntl(events_->fd, F_SETFL, O_NONBLOCK) != 0) return ErrnoStatus("fcntl");
  rdma_cm_id* id = nullptr;
  if (api_->create_id(events_.get(), &id, nullptr, RDMA_PS_TCP) != 0) return ErrnoStatus("create a connection");
  id_.reset(id);
  uint8_t timeout = kAckTimeout;
  api_->set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &timeout, sizeof timeout);  // Older kernels choose.
  if (api_->resolve_addr(id, nullptr, address->ai_addr, MillisecondsTo(deadline)) != 0) {
    return errno == ENODEV ? EventError(*api_, RDMA_CM_EVENT_ADDR_ERROR, -ENODEV)
                           : absl::UnavailableError(ErrnoStatus("find a way there").message());
  }
  MOULT_RETURN_IF_ERROR(WaitFor(RDMA_CM_EVENT_ADDR_RESOLVED, deadline));
  if (api_->resolve_route(id, MillisecondsTo(deadline)) != 0) {
    return absl::UnavailableError(ErrnoStatus("find a way there").message());
  }
  MOULT_RETURN_IF_ERROR(WaitFor(RDMA_CM_EVENT_ROUTE_RESOLVED, deadline));
  MOULT_RETURN_IF_ERROR(MakeQueuePair());
  ibv_device_attr device{};
  if (api_->query_device(id->verbs, &device) != 0) return ErrnoStatus("query the device");
  rdma_conn_param parameters{};
  parameters.private_data = introduction.data();
  parameters.private_data_len = static_cast<uint8_t>(introduction.size());
  parameters.initiator_depth = static_cast<uint8_t>(std::min<int>(kReadsUnderWay, device.max_qp_init_rd_atom));
  parameters.retry_count = kRetries;
  parameters.rnr_retry_count = kRetries - 1;  // 7 would be for ever
  return api_->connect(id, &parameters) == 0 ? absl::OkStatus() : absl::UnavailableError(ErrnoStatus("connect").message());
}

absl::Status Connection::Authenticate(const TenantKey& key, Clock::time_point deadline) {
  ibv_qp_attr attributes{};
  ibv_qp_init_attr unused{};
  if (api_->query_qp(id_->qp, &attributes, IBV_QP_DEST_QPN, &unused) != 0) return ErrnoStatus("query the queue pair");
  Handshake handshake{IdOf(key.tenant), RandomNonce(), {}, id_->qp->qp_num, attributes.dest_qp_num};
  MOULT_ASSIGN_OR_RETURN(const Challenge challenge, Ask<Challenge>(Hello{handshake.client_nonce}, deadline));
  handshake.server_nonce = challenge.nonce;
  MOULT_ASSIGN_OR_RETURN(const Welcome welcome, Ask<Welcome>(Proof{ClientProof(key, handshake)}, deadline));
  if (!SameMac(welcome.mac, ServerProof(key, handshake))) {
    usable_ = false;
    return Annotated(absl::PermissionDeniedError("does not have this tenant's key itself: it is not what it claims to be"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Reply> Connection::Call(Request request, Clock::time_point deadline) {
  const uint32_t number = ++number_;
  absl::Status status = queue_->Send(Encode(Message<Request>{number, std::move(request)}), deadline);
  if (status.ok()) {
    const auto bytes = queue_->Receive(deadline, over());
    status = bytes.status();
    if (status.ok()) {
      auto reply = ParseReply(*bytes);
      status = reply.status();
      if (status.ok() && reply->number != number) status = absl::InternalError("answers another request");
      if (status.ok()) {
        const auto* failure = std::get_if<Failure>(&reply->content);
        if (failure == nullptr) return std::move(reply->content);
        return Annotated(absl::Status(failure->code, failure->text));
      }
    }
  }
  usable_ = false;
  return Annotated(status);
}

}  // namespace moult::host::rdma
