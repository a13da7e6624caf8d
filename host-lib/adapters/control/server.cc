// SPDX-License-Identifier: Apache-2.0
//
// The loop: who is polled, accepted, read, dropped. What a request does is in server_calls.cc.
#include "server.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>

#include "listener.h"
#include "moult/base/status.h"
#include "server_limits.h"

namespace moult::control {

Server::Server(UniqueFd listener, UniqueFd wake, ServerOptions options)
    : listener_(std::move(listener)),
      wake_(std::move(wake)),
      options_(std::move(options)),
      keeper_(options_.target.vm, {options_.log, [this](moult_op* op) { FreeOp(op); }}),
      sweeper_(options_.target.vm, {options_.log, [this](moult_op* op) { FreeOp(op); }}) {}

absl::StatusOr<std::unique_ptr<Server>> Server::Create(UniqueFd listener, ServerOptions options) {
  UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake.valid()) return ErrnoStatus("control server: eventfd");
  return std::unique_ptr<Server>(new Server(std::move(listener), std::move(wake), std::move(options)));
}

Server::~Server() {
  worker_.Stop();
  for (const auto& [number, running] : running_) moult_op_free(running->call.op);
  for (moult_op* op : to_free_) moult_op_free(op);
}

void Server::Run() {
  while (!stop_) PollOnce();
}

void Server::Stop() {
  stop_ = true;
  Wake();
}

void Server::Wake() { eventfd_write(wake_.get(), 1); }

void Server::Post(std::function<void()> task) {
  {
    std::lock_guard lock(mutex_);
    posted_.push_back(std::move(task));
  }
  Wake();
}

void Server::RunPosted() {
  eventfd_t count;
  eventfd_read(wake_.get(), &count);
  std::vector<std::function<void()>> tasks;
  {
    std::lock_guard lock(mutex_);
    tasks.swap(posted_);
  }
  for (const auto& task : tasks) task();
}

void Server::Log(int level, const std::string& message) const {
  if (options_.log) options_.log(level, message);
}

int Server::PollTimeout() const {
  Clock::time_point next = std::min({keeper_.next(), sweeper_.next(), NextWaiting()});
  if (options_.each_second) next = std::min(next, next_second_);
  if (Clock::now() < accepts_from_) next = std::min(next, accepts_from_);
  for (const auto& [number, running] : running_) {
    if (running->connection != 0) next = std::min(next, running->next_progress);
  }
  if (next == Clock::time_point::max()) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(next - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 60'000));
}

void Server::PollOnce() {
  std::vector<pollfd> fds;
  fds.push_back({wake_.get(), POLLIN, 0});
  fds.push_back({options_.target.vm != nullptr ? moult_vm_fd(options_.target.vm) : -1, POLLIN, 0});
  // Clients over the limit wait in the backlog.
  const bool accepts = connections_.size() + streams_.size() < kMaxClients && Clock::now() >= accepts_from_;
  fds.push_back({accepts ? listener_.get() : -1, POLLIN, 0});
  std::vector<uint64_t> numbers;
  for (const auto& [number, connection] : connections_) {
    fds.push_back({connection->fd(), connection->events(), 0});
    numbers.push_back(number);
  }
  for (const Stream& stream : streams_) {
    pollfd pair[2];
    stream.pump->Want(&pair[0], &pair[1]);
    fds.insert(fds.end(), pair, pair + 2);
  }
  if (poll(fds.data(), fds.size(), PollTimeout()) < 0) return;  // EINTR: the loop asks again
  size_t at = 0;
  if (fds[at++].revents != 0) RunPosted();
  SeeBoots();
  if (fds[at++].revents != 0 && moult_vm_process(options_.target.vm) < 0)
    Log(0, absl::StrCat("process: ", moult_last_error()));
  SeeBoots();
  const bool clients_wait = fds[at++].revents != 0;
  for (const uint64_t number : numbers) {
    const short events = fds[at++].revents;
    // An earlier one's request may have made a pump of it, or dropped it.
    if (const auto found = connections_.find(number); events != 0 && found != connections_.end())
      Serve(number, *found->second, events);
  }
  // What was polled may have been joined by new ones at the end; those wait for the next round.
  std::vector<uint64_t> over;
  const size_t polled = (fds.size() - at) / 2;
  for (size_t i = polled; i-- > 0;) {
    if (fds[at + 2 * i].revents == 0 && fds[at + 2 * i + 1].revents == 0) continue;
    if (streams_[i].pump->Process()) continue;
    over.push_back(streams_[i].requested);
    streams_.erase(streams_.begin() + static_cast<ptrdiff_t>(i));
  }
  for (const uint64_t function : over) keeper_.End(function);
  if (clients_wait) AcceptClients();
  keeper_.Tick();
  sweeper_.Tick();
  if (options_.each_second && Clock::now() >= next_second_) {
    next_second_ = Clock::now() + std::chrono::seconds(1);
    options_.each_second();
  }
  BeginWaiting();
  SendProgress();
  Sweep();
}

void Server::AcceptClients() {
  while (connections_.size() + streams_.size() < kMaxClients) {
    absl::StatusOr<UniqueFd> client = Accept(listener_.get());
    if (!client.ok()) {
      Log(1, std::string(client.status().message()));
      if (absl::IsResourceExhausted(client.status())) accepts_from_ = Clock::now() + kAcceptAgain;
      return;
    }
    if (!client->valid()) return;
    connections_.emplace(next_number_++, std::make_unique<Connection>(*std::move(client)));
  }
}

void Server::Serve(uint64_t number, Connection& connection, short events) {
  if ((events & POLLIN) != 0 && !connection.Receive()) return Drop(number);
  if ((events & (POLLHUP | POLLERR)) != 0 && (events & POLLIN) == 0) return Drop(number);
  TakeLines(number, connection);
}

void Server::TakeLines(uint64_t number, Connection& connection) {
  while (!connection.paused && !connection.close_when_sent && !connection.backlogged() &&
         connection.pending < kMaxPending) {
    const absl::StatusOr<std::optional<std::string>> line = connection.NextLine();
    if (!line.ok()) {
      connection.Send(ErrorLine(nullptr, line.status()));
      connection.close_when_sent = true;
      return;
    }
    if (!line->has_value()) return;
    HandleLine(number, connection, **line);
  }
}

void Server::Drop(uint64_t number) {
  connections_.erase(number);
  for (const auto& [call, running] : running_) {
    if (running->connection != number) continue;
    running->connection = 0;
    if (!running->call.mutates && running->call.op != nullptr) moult_op_cancel(running->call.op);
  }
}

// After anything may have been sent: sends it, and closes those who are through.
void Server::Sweep() {
  std::vector<uint64_t> gone;
  for (const auto& [number, connection] : connections_) {
    // A call that ended, or an answer that was taken, made room for the next line.
    TakeLines(number, *connection);
    const bool alive = connection->Flush();
    const bool through = connection->sent() && connection->pending == 0 &&
                         (connection->close_when_sent || connection->input_ended());
    if (!alive || through) gone.push_back(number);
  }
  for (const uint64_t number : gone) Drop(number);
}

}  // namespace moult::control
