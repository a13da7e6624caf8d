// SPDX-License-Identifier: Apache-2.0
//
// The threads that serve faults of a vm, and what becomes of a function whose pages are lost.
#include <poll.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "session/ops.h"
#include "session/vm.h"

namespace moult::host {

void Vm::ServeFaults() {
  const ServingThreads::Serving serving(config_.threads.get());
  PageBuffer remote_buffer(RemotePager::kBufferPages);
  std::optional<Pager::Serving> ram;
  if (pager_ != nullptr) ram.emplace(pager_.get());
  for (;;) {
    TellDied();
    pollfd ready[] = {{pager_ != nullptr ? pager_->fd() : -1, POLLIN, 0},
                      {remote_pager_ != nullptr ? remote_pager_->fd() : -1, POLLIN, 0}};
    (void)poll(ready, 2, remote_pager_ != nullptr ? remote_pager_->WaitMs() : -1);
    // Of the guest's RAM first, whose pool is bound to be quicker: where it lies on a dead memory node as well, templates wait.
    if (pager_ != nullptr && !pager_->ServeReady(&*ram)) return;
    if (remote_pager_ != nullptr && !remote_pager_->ServeReady(&remote_buffer)) return;
  }
}

void Vm::TellDied() const {
  const int died = config_.threads->TakeDied();
  if (died == 0) return;
  Log(1, absl::StrCat("pager: ", died, died == 1 ? " thread" : " threads",
                      " in moult_pager_run() ended without returning from it; ", fault_servers(),
                      " are left, and take over what was begun"));
}

absl::Status Vm::NeedServers(bool lends) const {
  const int servers = fault_servers();
  if (servers == 0)
    return absl::FailedPreconditionError("no thread serves faults of this vm; let one run moult_pager_run()");
  if (servers == 1 && lends) {
    return absl::FailedPreconditionError(
        "one thread alone serves faults of this vm, and could not serve any while the pool does not answer; let a second run "
        "moult_pager_run()");
  }
  return absl::OkStatus();
}

void Vm::StopFaults() {
  if (pager_ != nullptr) pager_->Stop();
  if (remote_pager_ != nullptr) remote_pager_->Stop();
}

absl::Status Vm::ResolveLost(uint64_t function, Resolution resolution) {
  absl::Status status =
      absl::NotFoundError(absl::StrCat("resolve: function ", function, " has no lost pages"));
  if (pager_ != nullptr) status = pager_->Resolve(function, resolution);
  if (remote_pager_ == nullptr) return status;
  const absl::Status remote = remote_pager_->Resolve(function, resolution);
  // What either has not is no error when the other has it.
  if (absl::IsNotFound(status)) return remote;
  return absl::IsNotFound(remote) ? status : remote;
}

std::string Vm::LostBecause(uint64_t function) const {
  const std::lock_guard<std::mutex> lock(lost_mutex_);
  const auto known = lost_because_.find(function);
  return known == lost_because_.end() ? std::string() : known->second;
}

// Of functions that the agent does not know any more.
void Vm::ForgetLost(const rpc::ListReplyT& list) {
  const std::lock_guard<std::mutex> lock(lost_mutex_);
  std::erase_if(lost_because_, [&](const auto& entry) {
    return std::none_of(list.functions.begin(), list.functions.end(), [&](const auto& one) { return one->id == entry.first; });
  });
}

void Vm::OnLost(uint64_t function, GuestPhys gpa, const absl::Status& why) {
  {
    const std::lock_guard<std::mutex> lock(lost_mutex_);
    lost_because_.try_emplace(function, why.message());
  }
  if (config_.page_lost) config_.page_lost(function, gpa, why);
}

void Vm::OnRemoteLost(uint64_t function, const std::byte* page, const absl::Status& why) {
  if (function == 0) {
    attach_lost_ = true;
    reactor_->Kick();
    return;
  }
  uint64_t gpa = 0;
  for (const WindowConfig& window : config_.windows) {
    const uint64_t offset = reinterpret_cast<uint64_t>(page) - reinterpret_cast<uint64_t>(window.hva);
    if (offset < window.length) gpa = window.gpa + offset;
  }
  OnLost(function, GuestPhys(gpa), why);
}

// Functions that are not ready yet have no id that we know. The attach ends, by which the agent ends its
// function.
void Vm::EndLostAttaches() {
  for (const auto& [at, op] : attaching_) {
    if (!remote_pager_->spoiled(at)) continue;
    op->strand()->Abort(absl::DataLossError(
        "the pool did not give a page that the function touched; look at the pool (moultctl pool verify)"));
  }
  std::set<std::string> templates;
  for (const Window& window : windows_) {
    for (const Slot& slot : window.slots()) {
      if (slot.remote && remote_pager_->spoiled(window.config().hva + slot.offset))
        templates.insert(slot.template_name);
    }
  }
  Start("end_lost_attach", 0, ops::kEndLostAttachMs,
        [templates](Vm* on, Op* op) { return ops::EndLostAttach(on, op, templates); });
}

}  // namespace moult::host
