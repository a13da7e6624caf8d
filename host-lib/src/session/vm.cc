// SPDX-License-Identifier: Apache-2.0
#include "session/vm.h"

#include <algorithm>
#include <map>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"

namespace moult::host {

absl::StatusOr<std::unique_ptr<Vm>> Vm::Create(VmConfig config) {
  MOULT_RETURN_IF_ERROR(Transport::Check(config.transport));
  MOULT_ASSIGN_OR_RETURN(GuestMemory memory, GuestMemory::Create(config.regions));
  MOULT_ASSIGN_OR_RETURN(auto reactor, Reactor::Create());
  if (config.threads == nullptr) {
    MOULT_ASSIGN_OR_RETURN(config.threads, ServingThreads::Create());
  }
  std::unique_ptr<Vm> vm(new Vm(std::move(config), std::move(memory), std::move(reactor)));
  if (!vm->config_.windows.empty()) {
    RemoteConfig remote = vm->config_.remote_pager;
    remote.threads = vm->config_.threads;
    remote.lost = [self = vm.get()](uint64_t function, const std::byte* page, const absl::Status& why) {
      self->OnRemoteLost(function, page, why);
    };
    MOULT_ASSIGN_OR_RETURN(vm->remote_pager_, RemotePager::Create(std::move(remote)));
  }
  MOULT_RETURN_IF_ERROR(vm->AddWindows());
  if (vm->config_.pool != nullptr && !vm->memory_.empty()) {
    PagerConfig pager;
    pager.pool = vm->config_.pool;
    pager.threads = vm->config_.threads;
    pager.read_deadline = vm->config_.read_deadline;
    pager.lost = [self = vm.get()](uint64_t function, GuestPhys gpa, const absl::Status& why) {
      self->OnLost(function, gpa, why);
    };
    pager.zeroed = [self = vm.get()](uint64_t function, GuestPhys, const absl::Status& why) {
      self->Log(1, absl::StrCat("function ", function, " is ended: ", why.message(), "; so is what it does not give next, until it gives again"));
    };
    MOULT_ASSIGN_OR_RETURN(vm->pager_, Pager::Create(&vm->memory_, std::move(pager)));
  }
  return vm;
}

Vm::Vm(VmConfig config, GuestMemory memory, std::unique_ptr<Reactor> reactor)
    : config_(std::move(config)),
      memory_(std::move(memory)),
      remote_store_(config_.remote),
      reactor_(std::move(reactor)),
      transport_(config_.transport) {
  if (config_.work) {
    reactor_->set_work_hook([this](Strand* strand) {
      const auto op = std::find_if(ops_.begin(), ops_.end(),
                                   [&](const std::shared_ptr<Op>& one) { return one->strand() == strand; });
      if (op != ops_.end()) config_.work(op->get());
    });
  }
}

absl::Status Vm::AddWindows() {
  for (const WindowConfig& config : config_.windows) {
    const std::string context = absl::StrCat("window ", config.number);
    const uint64_t host = reinterpret_cast<uint64_t>(config.hva);
    const auto bad = [&](const char* what) {
      return absl::InvalidArgumentError(absl::StrCat(context, ": ", what));
    };
    if (config.hva == nullptr || host % kPage != 0 || config.gpa % kPage != 0) {
      return bad("hva or gpa is not page aligned");
    }
    if (config.length == 0 || config.length % kSlotAlign != 0)
      return bad("length is not a multiple of 2 MiB");
    if (config.length > UINT64_MAX - host || config.length > UINT64_MAX - config.gpa) {
      return bad("wraps around");
    }
    if (config.gpa != 0 && memory_.Overlaps({GuestPhys(config.gpa), config.length})) {
      return bad("overlaps the guest's RAM");
    }
    if (memory_.OverlapsHost(config.hva, config.length)) return bad("overlaps the guest's RAM in the host");
    for (const Window& other : windows_) {
      const uint64_t other_host = reinterpret_cast<uint64_t>(other.config().hva);
      if (other.config().number == config.number) return bad("is there twice");
      if (host < other_host + other.config().length && other_host < host + config.length) {
        return bad("overlaps another window");
      }
    }
    windows_.emplace_back(config, config_.memory_changed, remote_pager_.get());
  }
  return absl::OkStatus();
}

Vm::~Vm() {
  // Coroutines first: they hold leases and slots of ours.
  for (const auto& op : ops_) op->Finish(absl::CancelledError("the vm was closed"));
  ops_.clear();
}

std::shared_ptr<Op> Vm::Start(const char* verb, uint32_t timeout_ms, uint32_t default_ms, Body body, uint64_t function) {
  const auto deadline = Clock::now() + std::chrono::milliseconds(timeout_ms != 0 ? timeout_ms : default_ms);
  auto op = std::make_shared<Op>(verb, reactor_.get(), deadline);
  op->result().function = function;
  // A strand that yields begins in the next round, as all later steps do. The coroutine's parameters are
  // copies, so `body` need not outlive this call.
  op->task.emplace(body(this, op.get()));
  ops_.push_back(op);
  ++operations_;
  reactor_->Kick();
  return op;
}

size_t Vm::Process() {
  processing_ = true;
  if (attach_lost_.exchange(false)) EndLostAttaches();
  for (size_t i = 0; i < ops_.size(); ++i) {
    Op* op = ops_[i].get();
    if (!op->started_) {
      op->started_ = true;
      op->task->Start();
    }
  }
  reactor_->Poll();
  std::vector<std::shared_ptr<Op>> ended;
  std::erase_if(ops_, [&](const std::shared_ptr<Op>& op) {
    if (!op->task->done()) return false;
    ended.push_back(op);
    return true;
  });
  bool keep_spare = false;
  for (const auto& op : ended) {
    op->Finish(op->task->Take());
    // One that failed to make it is not tried again before the next operation.
    if (op.get() == spare_op_)
      spare_op_ = nullptr;
    else
      keep_spare = true;
  }
  processing_ = false;
  // Last, and on copies only: it may start operations.
  for (const auto& op : ended) {
    if (op->on_done) std::exchange(op->on_done, nullptr)();
  }
  if (keep_spare) KeepSpare();
  return ops_.size() - (spare_op_ != nullptr ? 1 : 0);
}

void Vm::GuestReset() {
  for (const auto& op : ops_) op->strand()->Abort(absl::AbortedError("the guest was reset"));
  hello_ = {};
  ForgetGuest();
}

void Vm::ForgetGuest() {
  ++boots_;
  open_ -= idle_.size();
  idle_.clear();
  for (Window& window : windows_) window.Clear();
  ForgetOffloaded();
  ForgetLost({});
}

// Whatever firmware and kernel find in RAM now is as good as any.
void Vm::ForgetOffloaded() {
  unswept_.clear();
  // One that an offload still works on is swept with those that have ended.
  std::erase_if(offloaded_, [this](uint64_t function) { return pager_->DropOwner(function); });
}

absl::Status Vm::Populate(GuestRange range) const {
  if (!memory_.Overlaps(range)) {
    const auto shown = GuestView(range);
    if (remote_pager_ == nullptr || !shown.ok()) return absl::OkStatus();
    return remote_pager_->Populate(*shown);
  }
  if (pager_ == nullptr || offloaded_.empty()) return absl::OkStatus();
  const uint64_t first = range.first() & ~(kPage - 1);
  const uint64_t end = (range.first() + range.length + kPage - 1) & ~(kPage - 1);
  return pager_->Populate({GuestPhys(first), end - first});
}

Json Vm::Info() const {
  Json windows = Json::array();
  for (const Window& window : windows_) {
    Json slots = Json::array();
    for (const Slot& slot : window.slots()) {
      slots.push_back({{"offset", slot.offset},
                       {"length", slot.length},
                       {"template", slot.template_name},
                       {"remote", slot.remote},
                       {"direct", slot.direct},
                       {"users", slot.users}});
    }
    windows.push_back({{"number", window.config().number},
                       {"gpa", window.config().gpa},
                       {"length", window.config().length},
                       {"slots", std::move(slots)}});
  }
  Json info = {{"name", config_.name},
               {"tenant", config_.tenant},
               {"agent", transport_.Text()},
               {"ram_bytes", memory_.size()},
               {"connections", open_},
               {"operations", ops_.size() - (spare_op_ != nullptr ? 1 : 0)},
               {"boot_id", hello_.boot_id},
               {"agent_version", hello_.agent_version},
               {"windows", std::move(windows)},
               {"reclaiming", reclaiming_},
               {"counters", {{"operations", operations_}, {"reclaimed_bytes", reclaimed_bytes_}}}};
  if (remote_pager_ != nullptr) info["remote"] = ToJson(remote_pager_->stats());
  if (const auto cache = remote_store_.Use(); cache.ok()) info["cache"] = ToJson(*cache);
  if (pager_ == nullptr) return info;
  info["pager"] = ToJson(pager_->stats());
  Json offloaded = Json::array();
  for (const uint64_t function : offloaded_) {
    const PagerCounts counts = pager_->owner_stats(function);
    offloaded.push_back({{"function", function},
                         {"offloaded_bytes", counts.offloaded_bytes + counts.zero_bytes},
                         {"faults", counts.faults},
                         {"ended", unswept_.contains(function)}});
  }
  info["offloaded"] = std::move(offloaded);
  return info;
}

void Vm::FunctionGone(uint64_t function) {
  for (Window& window : windows_) window.Drop(function);
  LearnEnded(function);
}

void Vm::LearnEnded(uint64_t function) {
  if (!offloaded_.contains(function)) return;
  pager_->End(function);
  const PagerCounts counts = pager_->owner_stats(function);
  const bool out = counts.offloaded_bytes + counts.zero_bytes != 0;
  if (!out && !moving_.contains(function) && pager_->DropOwner(function)) {
    offloaded_.erase(function);
    unswept_.erase(function);
  } else {
    unswept_.try_emplace(function, false);
  }
}

// What is being given back is not swept as well: that ends with FunctionGone.
void Vm::LearnEnded(const rpc::ListReplyT& list) {
  std::vector<uint64_t> ended;
  for (const uint64_t function : offloaded_) {
    const auto found = std::find_if(list.functions.begin(), list.functions.end(), [&](const auto& one) {
      return one->id == function && one->state != rpc::FunctionState::Ended;
    });
    const bool lives = found != list.functions.end();
    if (!lives && !reclaiming_.contains(function)) ended.push_back(function);
    // An earlier list may have lacked it. One that is about to be ended stands still.
    if (lives && (*found)->state == rpc::FunctionState::Running) (void)pager_->Revive(function);
  }
  for (const uint64_t function : ended) LearnEnded(function);
}

void Vm::Reconcile(const rpc::ListReplyT& list) {
  std::set<uint64_t> live;
  std::set<std::string_view> names;
  ForgetLost(list);
  LearnEnded(list);
  for (const auto& function : list.functions) {
    if (function->state == rpc::FunctionState::Ended) continue;
    live.insert(function->id);
    names.insert(function->template_name);
    // One that an agent found again after its restart may be of any template.
    if (function->state == rpc::FunctionState::Lost && function->template_name.empty()) return;
  }
  for (Window& window : windows_) {
    window.Reconcile([&](uint64_t function) { return live.contains(function); },
                     [&](const std::string& name) { return names.contains(name); });
  }
}

void Vm::Reclaimed(uint64_t function, uint64_t bytes, const absl::Status& status) {
  reclaiming_.erase(function);
  reclaimed_bytes_ += bytes;
  if (!status.ok())
    Log(1, absl::StrCat("give back the memory of function ", function, ": ", status.message()));
}

absl::StatusOr<GuestPhys> Vm::AddressOf(const std::byte* hva) const {
  const auto host = reinterpret_cast<uint64_t>(hva);
  for (const Window& window : windows_) {
    const WindowConfig& config = window.config();
    const auto start = reinterpret_cast<uint64_t>(config.hva);
    if (host < start || host - start >= config.length || config.number >= hello_.windows.size()) continue;
    return GuestPhys(hello_.windows[config.number]->gpa + (host - start));
  }
  return memory_.GuestOf(hva);
}

absl::StatusOr<absl::Span<const std::byte>> Vm::GuestView(GuestRange range) const {
  for (const Window& window : windows_) {
    const WindowConfig& config = window.config();
    if (config.number >= hello_.windows.size()) continue;
    const uint64_t gpa = hello_.windows[config.number]->gpa;
    if (hello_.windows[config.number]->size == 0 || range.first() < gpa ||
        range.first() - gpa >= config.length)
      continue;
    const uint64_t offset = range.first() - gpa;
    for (const Slot& slot : window.slots()) {
      if (offset < slot.offset || offset - slot.offset > slot.length) continue;
      if (range.length > slot.length - (offset - slot.offset)) continue;
      return absl::MakeConstSpan(config.hva + offset, range.length);
    }
    return absl::OutOfRangeError(
        absl::StrCat(range.Text(), " is in window ", config.number, ", but not inside one template there"));
  }
  return memory_.Translate(range);
}

}  // namespace moult::host
