// SPDX-License-Identifier: Apache-2.0
#include "server.h"

#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"

namespace moult::poold {
namespace {

constexpr int kBacklog = 64;
constexpr size_t kMaxSessions = 1024;
constexpr size_t kMaxOfTenant = 256;
constexpr size_t kMaxUnproved = 64;  // each for five seconds at most
constexpr int kSweepMs = 1000;

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Listen(const host::PoolNode& address, std::vector<host::rdma::TenantKey> keys,
                                                       std::unique_ptr<Backing> backing, const Limits& limits) {
  MOULT_ASSIGN_OR_RETURN(const host::rdma::Api* api, host::rdma::LoadApiWithDevice());
  std::unique_ptr<Server> server(new Server(api, std::move(keys), std::move(backing), limits));
  const absl::Status status = server->Bind(address);
  if (!status.ok()) return Annotate(status, absl::StrCat("listen at ", address.text()));
  return server;
}

absl::Status Server::Bind(const host::PoolNode& address) {
  ended_.Reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!ended_.valid()) return ErrnoStatus("eventfd");
  events_.reset(api_->create_event_channel());
  if (events_ == nullptr) return ErrnoStatus("create an event channel; modprobe rdma_ucm");
  if (fcntl(events_->fd, F_SETFL, O_NONBLOCK) != 0) return ErrnoStatus("fcntl");
  rdma_cm_id* id = nullptr;
  if (api_->create_id(events_.get(), &id, nullptr, RDMA_PS_TCP) != 0) return ErrnoStatus("create a connection");
  listener_.reset(id);
  addrinfo hints{};
  hints.ai_flags = AI_PASSIVE;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found);
  if (error != 0) return absl::InvalidArgumentError(gai_strerror(error));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owned(found, freeaddrinfo);
  if (api_->bind_addr(id, found->ai_addr) != 0) {
    return errno == ENODEV || errno == EADDRNOTAVAIL
               ? absl::FailedPreconditionError("no RDMA device has this address; give one of `rdma link`'s interfaces, or 0.0.0.0")
               : ErrnoStatus("bind");
  }
  return api_->listen(id, kBacklog) == 0 ? absl::OkStatus() : ErrnoStatus("listen");
}

absl::Status Server::Run(int stop) {
  auto sweep_at = host::rdma::Clock::now();
  for (;;) {
    pollfd waits[] = {{events_->fd, POLLIN, 0}, {ended_.get(), POLLIN, 0}, {stop, POLLIN, 0}};
    if (poll(waits, 3, kSweepMs) < 0 && errno != EINTR) return ErrnoStatus("poll");
    if (waits[2].revents != 0) break;
    if (waits[0].revents != 0) TakeEvent();
    uint64_t count = 0;
    if (waits[1].revents != 0 && read(ended_.get(), &count, sizeof count) > 0) Reap();
    if (host::rdma::Clock::now() >= sweep_at) {
      exports_.Sweep();
      loans_.Sweep();
      sweep_at = host::rdma::Clock::now() + std::chrono::milliseconds(kSweepMs);
    }
  }
  for (const auto& session : sessions_) session->Stop();
  sessions_.clear();
  return absl::OkStatus();
}

void Server::TakeEvent() {
  rdma_cm_event* event = nullptr;
  if (api_->get_cm_event(events_.get(), &event) != 0) return;
  const rdma_cm_event_type kind = event->event;
  rdma_cm_id* const id = event->id;
  const uint8_t reads = event->param.conn.responder_resources;
  std::string introduction;
  if (kind == RDMA_CM_EVENT_CONNECT_REQUEST && event->param.conn.private_data != nullptr) {
    introduction.assign(static_cast<const char*>(event->param.conn.private_data), event->param.conn.private_data_len);
  }
  api_->ack_cm_event(event);  // Before the id may end, which waits for that.
  if (kind == RDMA_CM_EVENT_CONNECT_REQUEST) {
    TakeRequest(host::rdma::CmId(id), std::move(introduction), reads);
  } else if (kind != RDMA_CM_EVENT_ESTABLISHED && id != listener_.get() && id->context != nullptr) {
    static_cast<Session*>(id->context)->Stop();
  }
}

void Server::TakeRequest(host::rdma::CmId id, std::string introduction, uint8_t reads) {
  auto session = Admit(&id, introduction, reads);
  if (session.ok()) {
    sessions_.push_back(*std::move(session));
  } else if (id != nullptr) {
    api_->reject(id.get(), nullptr, 0);
  }
}

absl::StatusOr<std::unique_ptr<Session>> Server::Admit(host::rdma::CmId* id, const std::string& introduction, uint8_t reads) {
  MOULT_ASSIGN_OR_RETURN(const auto who, host::rdma::ParseIntroduction(introduction));
  const host::rdma::TenantKey* const tenant = domains_.Find(who.tenant);
  if (Full(tenant)) return absl::ResourceExhaustedError("too many connections");
  MOULT_ASSIGN_OR_RETURN(ibv_pd* domain, domains_.Of((*id)->verbs, tenant));
  const auto wake = [fd = ended_.get()] {
    const uint64_t one = 1;
    (void)!write(fd, &one, sizeof one);
  };
  rdma_cm_id* const raw = id->get();
  raw->context = nullptr;
  MOULT_ASSIGN_OR_RETURN(auto session, Session::Accept({api_, &exports_, &loans_, tenant, domain, wake}, std::move(*id), reads));
  raw->context = session.get();
  return session;
}

bool Server::Full(const host::rdma::TenantKey* tenant) const {
  const auto count = [&](auto which) { return static_cast<size_t>(std::count_if(sessions_.begin(), sessions_.end(), which)); };
  return sessions_.size() >= kMaxSessions || count([](const auto& session) { return !session->ready(); }) >= kMaxUnproved ||
         count([&](const auto& session) { return session->tenant() == tenant; }) >= kMaxOfTenant;
}

void Server::Reap() {
  sessions_.remove_if([](const auto& session) { return session->ended(); });
}

}  // namespace moult::poold
