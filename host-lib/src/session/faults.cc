// SPDX-License-Identifier: Apache-2.0
//
// The threads that serve faults of a vm, and what becomes of a function whose pages are lost.
#include <poll.h>

#include <algorithm>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "session/ops.h"
#include "session/vm.h"

namespace moult::host {

void Vm::ServeFaults() {
  ++fault_servers_;
  if (remote_pager_ != nullptr) ++remote_pager_->servers();
  const absl::Cleanup gone = [this] {
    --fault_servers_;
    if (remote_pager_ != nullptr) --remote_pager_->servers();
  };
  PageBuffer remote_buffer(RemotePager::kBufferPages);
  std::optional<PageBuffer> buffer;
  if (pager_ != nullptr) buffer.emplace(pager_->buffer_pages());
  for (;;) {
    pollfd ready[] = {{pager_ != nullptr ? pager_->fd() : -1, POLLIN, 0},
                      {remote_pager_ != nullptr ? remote_pager_->fd() : -1, POLLIN, 0}};
    (void)poll(ready, 2, remote_pager_ != nullptr ? remote_pager_->WaitMs() : -1);
    // Of the guest's RAM first: these are never as slow.
    if (pager_ != nullptr && !pager_->ServeReady(&*buffer)) return;
    if (remote_pager_ != nullptr && !remote_pager_->ServeReady(&remote_buffer)) return;
  }
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
  if (config_.page_lost) config_.page_lost(function, GuestPhys(gpa), why);
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
