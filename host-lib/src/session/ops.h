// SPDX-License-Identifier: Apache-2.0
//
// The operations, as coroutines. Parameters are copies: a coroutine outlives the call that made it.
#ifndef MOULT_HOST_SESSION_OPS_H_
#define MOULT_HOST_SESSION_OPS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "ledger/page_ledger.h"
#include "session/vm.h"

namespace moult::host::ops {

Task<absl::Status> Hello(Vm* vm, Op* op);
Task<absl::Status> Doctor(Vm* vm, Op* op);
Task<absl::Status> List(Vm* vm, Op* op);
Task<absl::Status> Run(Vm* vm, Op* op, std::shared_ptr<const rpc::FunctionSpecT> spec);
Task<absl::Status> Freeze(Vm* vm, Op* op, uint64_t function);
Task<absl::Status> Thaw(Vm* vm, Op* op, uint64_t function);
Task<absl::Status> Kill(Vm* vm, Op* op, uint64_t function);
Task<absl::Status> Forget(Vm* vm, Op* op, uint64_t function);
Task<absl::Status> Tunnel(Vm* vm, Op* op, uint64_t function);
Task<absl::Status> Logs(Vm* vm, Op* op, uint64_t function, uint64_t tail_bytes, bool follow);

struct OffloadConfig {
  uint64_t function = 0;
  bool cold_only = false;  // only pages without PageFlag::Accessed
  bool run_on = false;     // the function runs on afterwards; else it stays frozen until Recall or Thaw
  uint32_t segments = 0;   // bits by rpc::Segment; 0: all, and what has none
  uint64_t most_bytes = 0; // of guest RAM; 0: all
};
Task<absl::Status> Offload(Vm* vm, Op* op, OffloadConfig config);
struct RecallConfig {
  uint64_t function = 0;
  Prefetch prefetch = Prefetch::kWorkingSet;
};
Task<absl::Status> Recall(Vm* vm, Op* op, RecallConfig config);
// Of all functions; none is thawed.
Task<absl::Status> RecallAll(Vm* vm, Op* op);
// Gives back all room in the pool that functions had which have ended (vm->unswept()).
Task<absl::Status> Sweep(Vm* vm, Op* op);

struct PagesConfig {
  uint64_t function = 0;  // 0: all of the guest
  bool runs = false;      // in the JSON, too
};
Task<absl::Status> Pages(Vm* vm, Op* op, PagesConfig config);
Task<absl::Status> Why(Vm* vm, Op* op, GuestPhys gpa);

struct CaptureConfig {
  uint64_t function = 0;
  std::string name;
  bool end = false;
  PageMode pages = PageMode::kAuto;
};
Task<absl::Status> Capture(Vm* vm, Op* op, CaptureConfig config);

struct ForkConfig {
  CaptureConfig capture;  // `end` is false
  std::string to;         // URI of a pool
  bool keep = false;      // in the vm's store, too
};
Task<absl::Status> Fork(Vm* vm, Op* op, ForkConfig config);

struct AttachConfig {
  std::string name;
  std::string from;    // URI of a pool; "": the vm's store
  std::string digest;  // with it: hex, of the manifest that it must have; "": any
  PageMode pages = PageMode::kAuto;
  bool settled = false;  // Repurpose: ends only when the old function's memory is given back
};
// The pool did not give a page of these templates, and attaches of them were ended for it: what their functions wait for
// is resolved when they have ended.
inline constexpr uint32_t kEndLostAttachMs = 6000;
Task<absl::Status> EndLostAttach(Vm* vm, Op* op, std::set<std::string> templates);
Task<absl::Status> Attach(Vm* vm, Op* op, AttachConfig config);
Task<absl::Status> Detach(Vm* vm, Op* op, uint64_t function);
Task<absl::Status> Repurpose(Vm* vm, Op* op, uint64_t function, AttachConfig config);

// Parts that operations share.

// A request that says nothing but which function.
template <typename Body>
Body Of(uint64_t function) {
  Body body;
  body.function = function;
  return body;
}

// The page ledger of one function, or of all for 0.
Task<absl::StatusOr<PageLedger>> FetchLedger(Vm* vm, Op* op, Connection* connection, uint64_t function);
Task<absl::StatusOr<rpc::ListReplyT>> ListFunctions(Op* op, Connection* connection);
// All that is out of this function comes in, so that it can be read.
Task<absl::Status> BringBack(Vm* vm, Op* op, uint64_t function);
// What is out of a function that is about to be ended: nobody who gets its page frames after it is to wait for a pool that does
// not answer (Pager::End). Only when it stands still, as it would see the zeros. Where that cannot be had soon, it ends without.
struct Doom {
  bool begun = false;
  bool thaws = false;    // when it is not ended after all
  bool clashes = false;  // it does not come to stand, which the agent may be at for a moment more
};
Task<absl::StatusOr<Doom>> Condemn(Vm* vm, Op* op, uint64_t function);
// It was not ended, because of `cause`, which comes back with what became of it.
Task<absl::Status> Spare(Vm* vm, Op* op, uint64_t function, Doom doom, absl::Status cause);
// It is to run, or to be offloaded, so nothing of it may be zeros.
absl::Status MayLive(Vm* vm, uint64_t function);
// OK: it is over. `what` is waited for.
Task<absl::Status> Pause(Op* op, std::chrono::milliseconds time, const char* what);
absl::StatusOr<rpc::FunctionState> StateOf(const rpc::ListReplyT& list, uint64_t function);
// Of vm->unswept(), what the guest has freed, which nobody wants any more: its room in the pool is given back, without a read
// of the pool. An error only means that it is still there.
Task<absl::Status> DropFreed(Vm* vm, Op* op, Connection* connection);

// The function ends; the agent holds what it had, until Reclaim on the same connection. On success, also when the
// connection was lost but the agent did it, result().detached is set.
Task<absl::Status> EndFunction(Vm* vm, Op* op, Connection* connection, uint64_t function);
// Discards what it had. An error only when the agent lies, or the vm is closed: what is not discarded the guest wipes.
Task<absl::Status> Reclaim(Vm* vm, Op* op, Connection* connection, uint64_t function);
// The same, as an operation of its own that nobody waits for.
void StartReclaim(Vm* vm, Lease lease, uint64_t function);

// Empties slots that no function uses, where the agent says that nothing in the guest has their pages. On errors
// they stay; those of the connection show in it.
Task<absl::Status> ReleaseIdle(Vm* vm, Op* op, Connection* connection);

// A place in a window that an attach holds on to. Given back when destroyed: free, unless the agent was asked
// to use it and did not say what became of it.
class SlotHold {
 public:
  SlotHold(Window* window, Slot* slot) : window_(window), slot_(slot) {}
  SlotHold(SlotHold&& other) noexcept
      : window_(other.window_), slot_(std::exchange(other.slot_, nullptr)), asked_(other.asked_) {}
  SlotHold& operator=(SlotHold&& other) noexcept {
    std::swap(window_, other.window_);
    std::swap(slot_, other.slot_);
    std::swap(asked_, other.asked_);
    return *this;
  }
  ~SlotHold() {
    if (slot_ == nullptr) return;
    if (asked_) {
      window_->Uncertain(slot_);
    } else {
      window_->Attached(slot_, 0);
    }
  }
  const Window& window() const { return *window_; }
  const Slot& slot() const { return *slot_; }
  // What the agent's next answer says again.
  bool TakeKept() { return std::exchange(slot_->kept, false); }
  void SetKept(bool kept) { slot_->kept = kept; }
  void Asked() { asked_ = true; }
  void Refused() { asked_ = false; }
  void Used(uint64_t function) { window_->Attached(std::exchange(slot_, nullptr), function); }

 private:
  Window* window_;
  Slot* slot_;
  bool asked_ = false;
};

}  // namespace moult::host::ops

#endif  // MOULT_HOST_SESSION_OPS_H_
