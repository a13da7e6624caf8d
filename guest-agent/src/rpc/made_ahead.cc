// SPDX-License-Identifier: Apache-2.0
//
// The main process's side of what is there before it is needed: shells, and workers that wait.
#include <algorithm>

#include "rpc/fork_worker.h"
#include "rpc/log.h"
#include "rpc/server.h"
#include "rpc/standby.h"
#include "shell/shell.h"

namespace moult::agent {

absl::Status NotKept(const rpc::AttachT& attach) {
  return absl::NotFoundError(absl::StrCat("template ", attach.name, " is not kept here; send its image and manifest"));
}

std::list<Server::Standby>::iterator Server::FindStandby(const TemplateKey& key) {
  return std::find_if(standby_.begin(), standby_.end(), [&](const Standby& standby) { return standby.key == key; });
}

bool Server::TakeStandby(const std::shared_ptr<Connection>& connection, uint64_t call, const rpc::RequestT& request,
                         const Function* function, Running& worker) {
  if (function == nullptr || IsStream(request.body.type)) return false;
  const rpc::AttachT* attach = request.body.AsAttach();
  const TemplateKey key = attach != nullptr ? KeyOf(*attach) : TemplateKey();
  auto standby = FindStandby(key);
  if (standby == standby_.end() && attach == nullptr) return false;
  if (standby == standby_.end()) standby = FindStandby({});  // one that has no template yet
  if (standby == standby_.end()) return false;
  // One that has no template cannot be told of one in short.
  if (attach != nullptr && IsShort(*attach) && standby->key != key) return false;
  const absl::Status sent = SendOrder(standby->socket.get(), connection->fd(), call, request, *function);
  if (absl::IsResourceExhausted(sent)) return false;
  if (sent.ok()) {
    worker.pid = standby->pid;
    worker.socket = std::move(standby->socket);
  } else {
    Log(absl::StrCat("worker ", standby->pid, " that waited: ", sent.message()));
  }
  standby_.erase(standby);
  return sent.ok();
}

// Workers that have said that they wait for the next attach of their template.
void Server::TakeIdle() {
  for (auto worker = workers_.begin(); worker != workers_.end();) {
    const auto here = worker++;
    if (!here->idle) continue;
    here->connection->busy = false;
    refill_at_ = Clock::now() + kRefillDelay;
    if (!here->key.digest.empty() && FindStandby(here->key) == standby_.end()) {
      standby_.push_front({here->pid, std::move(here->socket), here->key});
    }
    workers_.erase(here);
  }
  // The one that has waited longest goes first: its socket closes.
  const auto keeps = [](const Standby& standby) { return !standby.key.digest.empty(); };
  while (static_cast<size_t>(std::count_if(standby_.begin(), standby_.end(), keeps)) > config_.keep_templates) {
    standby_.erase(std::next(std::find_if(standby_.rbegin(), standby_.rend(), keeps)).base());
  }
}

void Server::DropKept(uint32_t window, uint64_t offset, uint64_t length) {
  const auto overlaps = [&](const TemplateKey& key) {
    return !key.digest.empty() && key.window == window && key.offset < offset + length && offset < key.offset + key.size;
  };
  standby_.remove_if([&](const Standby& standby) { return overlaps(standby.key); });
  for (Running& worker : workers_) {
    if (overlaps(worker.key)) worker.key = {};  // when it is idle, it goes
  }
}

absl::Status Server::MakeSpare() {
  Standby spare;
  UniqueFd theirs;
  MOULT_ASSIGN_OR_RETURN(spare.pid, ForkWorker(&spare.socket, &theirs));
  if (spare.pid == 0) {
    BecomeWorker({theirs.get()});
    StandBy(config_, theirs.get(), nullptr);
  }
  standby_.push_back(std::move(spare));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Function>> Server::TakeShell() {
  if (shells_.empty()) return MakeShell(config_, use_cgroup_, next_id_++);
  auto shell = std::move(shells_.front());
  shells_.pop_front();
  return shell;
}

void Server::Refill() {
  // Not while anybody waits for a worker that may need the CPU, nor when a function that has just begun is about to be
  // called for the first time.
  if (Clock::now() < refill_at_ ||
      std::any_of(workers_.begin(), workers_.end(), [](const Running& worker) { return !worker.stream; }))
    return;
  while (!stopping_ && shells_.size() < config_.warm_shells) {
    auto shell = MakeShell(config_, use_cgroup_, next_id_++);
    if (!shell.ok()) return Log(shell.status().ToString());
    shells_.push_back(*std::move(shell));
  }
  // A fork would have a copy of what has come of a request, and longer than the request lives.
  const auto in_frame = [](const auto& connection) { return connection->in_frame(); };
  if (std::any_of(connections_.begin(), connections_.end(), in_frame)) return;
  if (!stopping_ && FindStandby({}) == standby_.end()) {
    if (const absl::Status made = MakeSpare(); !made.ok()) Log(made.ToString());
  }
}

bool Server::IsFull() { return FindStandby({}) != standby_.end() && shells_.size() >= config_.warm_shells; }

}  // namespace moult::agent
