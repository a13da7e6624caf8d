// SPDX-License-Identifier: Apache-2.0
//
// Offload and recall: a function's pages leave guest RAM for the pool, and come back as they are touched.
// Where they are is the agent's word, and only a hint: whatever page it names, its content is what it was
// when somebody touches it.
#include <algorithm>
#include <stop_token>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "session/ops.h"

namespace moult::host::ops {
namespace {

constexpr std::chrono::seconds kThawTime(10);
constexpr std::chrono::milliseconds kThawRetry(20);
constexpr std::chrono::milliseconds kStopPause(2);

using rpc::PageClass;
using rpc::PageFlag;
using rpc::PageRun;

absl::Status NeedPager(const Vm& vm) {
  if (vm.pager() != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "this vm has no pool for pages; give it one when it is created, and RAM regions");
}

bool IsAccessed(const PageRun& run) { return (run.flags() & PageFlag::Accessed) != PageFlag{}; }

bool IsOwn(const PageRun& run) {
  return run.page_class() == PageClass::UserPrivate || run.page_class() == PageClass::UserShared;
}

bool IsWanted(const PageRun& run, const OffloadConfig& config) {
  const bool of_segment = config.segments == 0 || (config.segments >> static_cast<unsigned>(run.segment()) & 1) != 0;
  return IsOwn(run) && of_segment && !(config.cold_only && IsAccessed(run));
}

// In the order of virtual addresses, so that neighbours there are neighbours in the pool; what nobody maps
// comes last. When not all may go, what was not touched does first.
std::vector<OffloadRun> Plan(const PageLedger& ledger, const OffloadConfig& config) {
  std::vector<OffloadRun> runs, touched;
  for (const PageRun& run : ledger.runs()) {
    if (!IsWanted(run, config)) continue;
    std::vector<OffloadRun>& to = config.most_bytes != 0 && IsAccessed(run) ? touched : runs;
    to.push_back({{GuestPhys(run.gpa()), run.length()}, run.va(), run.pid()});
  }
  for (std::vector<OffloadRun>* some : {&runs, &touched}) {
    std::stable_sort(some->begin(), some->end(), [](const OffloadRun& a, const OffloadRun& b) {
      return std::make_tuple(a.pid == 0, a.pid, a.va) < std::make_tuple(b.pid == 0, b.pid, b.va);
    });
  }
  runs.insert(runs.end(), touched.begin(), touched.end());
  return runs;
}

// What it moves, and later drops with the function, must be that function's: an agent that says otherwise errs, or lies.
absl::Status CheckOwner(const PageLedger& ledger, uint64_t function) {
  for (const PageRun& run : ledger.runs()) {
    if (run.function() == function) continue;
    return absl::DataLossError(absl::StrCat("the agent's report of function ", function, " tells of pages of function ", run.function(),
                                            ", at ", GuestRange{GuestPhys(run.gpa()), run.length()}.Text(), "; nothing is offloaded"));
  }
  return absl::OkStatus();
}

// The first `most` bytes that are not out yet.
std::vector<OffloadRun> FirstOf(std::vector<OffloadRun> runs, uint64_t most, Pager& pager) {
  std::vector<OffloadRun> first;
  for (const OffloadRun& run : runs) {
    const std::vector<bool> out = pager.Out(run.range);
    for (uint64_t i = 0; i < out.size() && most > 0; ++i) {
      if (out[i]) continue;
      const auto gpa = GuestPhys(run.range.first() + i * kPage);
      const bool follows = i > 0 && !out[i - 1] && !first.empty();
      if (follows) {
        first.back().range.length += kPage;
      } else {
        first.push_back({{gpa, kPage}, run.va + i * kPage, run.pid});
      }
      most -= kPage;
    }
  }
  return first;
}

// One operation at a time moves or reads a function's pages.
class Moving {
 public:
  Moving(Vm* vm, uint64_t function)
      : vm_(vm), function_(function), begun_(vm->moving().try_emplace(function).second) {}
  Moving(const Moving&) = delete;
  Moving& operator=(const Moving&) = delete;
  ~Moving() {
    if (begun_) vm_->moving().erase(function_);
  }
  // From now on who wants to move its pages out may stop this.
  std::stop_source AllowStop() const { return vm_->moving()[function_].emplace(); }
  absl::Status status() const {
    if (begun_) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat(
        "function ", function_, ": an offload or recall of it goes on; try again when it has ended"));
  }

 private:
  Vm* const vm_;
  const uint64_t function_;
  const bool begun_;
};

Task<absl::Status> Thaw(Op* op, Connection* connection, uint64_t function) {
  auto reply = co_await connection->Call<rpc::FunctionReplyT>(op->strand(), Of<rpc::ThawT>(function));
  if (reply.ok()) op->EndPhase("thaw");
  co_return reply.status();
}

Task<absl::Status> ThawOverAnother(Vm* vm, Op* op, uint64_t function) {
  MOULT_CO_ASSIGN_OR_RETURN(Lease lease, co_await vm->Acquire(op));
  co_return co_await Thaw(op, &*lease, function);
}

// Its connection was lost. An agent that is started again needs a moment, and finds the function standing still.
Task<absl::Status> ThawAnew(Vm* vm, Op* op, uint64_t function) {
  const auto deadline = op->strand()->deadline();
  absl::Status last;
  do {
    op->strand()->set_deadline(deadline);
    last = co_await ThawOverAnother(vm, op, function);
    if (last.ok() || absl::IsAborted(last) || absl::IsNotFound(last)) co_return last;
    op->strand()->set_deadline(std::min(deadline, Clock::now() + kThawRetry));
    const absl::Status waited = co_await op->strand()->ForWake("agent");
    if (absl::IsAborted(waited)) co_return waited;  // the guest was reset
  } while (!vm->single_connection() && Clock::now() < deadline);
  co_return Annotate(last, absl::StrCat("function ", function, " may stand still; thaw it when the agent is back"));
}

// A recall of the function that only fetches what it may want yet is in the way of who wants to move it out.
Task<absl::Status> StopFetching(Vm* vm, Op* op, uint64_t function) {
  for (;;) {
    const auto moving = vm->moving().find(function);
    if (moving == vm->moving().end() || !moving->second.has_value()) co_return absl::OkStatus();
    moving->second->request_stop();
    // A pool may be slow with what is on its way.
    if (Clock::now() >= op->strand()->deadline()) {
      co_return absl::DeadlineExceededError(absl::StrCat("function ", function, ": a recall of it has not stopped in time; its pool may be slow"));
    }
    MOULT_CO_RETURN_IF_ERROR(co_await Pause(op, kStopPause, "recall"));
  }
}

Task<absl::Status> Fetch(Vm* vm, Op* op, uint64_t function, Prefetch prefetch, std::stop_token stop) {
  std::function<absl::Status()> work = [vm, function, prefetch, stop] {
    return vm->pager()->Recall(function, prefetch, stop);
  };
  absl::Status fetched = co_await op->strand()->Work(std::move(work));
  if (absl::IsCancelled(fetched) && Clock::now() >= op->strand()->deadline())
    co_return absl::DeadlineExceededError(fetched.message());
  co_return fetched;
}

void Tell(Op* op, const OffloadResult& moved, const PagerStats& stats) {
  op->result().bytes = moved.moved_bytes;
  op->result().json["offloaded_bytes"] = moved.moved_bytes;
  op->result().json["zero_bytes"] = moved.zero_bytes;
  op->result().json["stayed_bytes"] = moved.stayed_bytes;
  op->result().json["already_bytes"] = moved.already_bytes;
  op->result().json["pool_used_bytes"] = stats.pool_used_bytes;
}

// But for pages that cannot go now.
bool IsAllOut(const PageLedger& ledger, const PagerCounts& counts, uint64_t stayed_bytes) {
  uint64_t own = 0;
  for (const PageRun& run : ledger.runs()) own += IsOwn(run) ? run.length() : 0;
  return counts.offloaded_bytes + counts.zero_bytes + stayed_bytes >= own;
}

// The function stands still; `stays`: also afterwards.
Task<absl::Status> Move(Vm* vm, Op* op, Connection* connection, const OffloadConfig* config, bool stays) {
  MOULT_CO_ASSIGN_OR_RETURN(const PageLedger ledger, co_await FetchLedger(vm, op, connection, config->function));
  MOULT_CO_RETURN_IF_ERROR(CheckOwner(ledger, config->function));
  std::vector<OffloadRun> runs = Plan(ledger, *config);
  if (config->most_bytes != 0) runs = FirstOf(std::move(runs), config->most_bytes, *vm->pager());
  absl::StatusOr<OffloadResult> moved = OffloadResult();
  // From now on there may be pages of it in the pool.
  vm->offloaded().insert(config->function);
  std::function<absl::Status()> work = [&] {
    moved = vm->pager()->Offload(config->function, runs);
    return moved.status();
  };
  MOULT_CO_RETURN_IF_ERROR(co_await op->strand()->Work(std::move(work)));
  op->EndPhase("offload");
  op->result().json["access"] = ledger.AccessOf(config->function);
  Tell(op, *moved, vm->pager()->stats());
  if (stays && IsAllOut(ledger, vm->pager()->owner_stats(config->function), moved->stayed_bytes)) {
    // Of ranges that have been touched the guest's kernel makes huge pages, also in a process that stands still, and all comes
    // back for it. As long as pages are left the next offload wants to know which of them are cold. Where it fails, pages may
    // come back: no reason to say that they are not out.
    auto untouched = Of<rpc::FreezeT>(config->function);
    untouched.forget = true;
    (void)co_await connection->Call<rpc::FunctionReplyT>(op->strand(), std::move(untouched));
    op->EndPhase("forget");
  }
  co_return absl::OkStatus();
}

}  // namespace

Task<absl::Status> Offload(Vm* vm, Op* op, OffloadConfig config) {
  op->result().function = config.function;
  MOULT_CO_RETURN_IF_ERROR(NeedPager(*vm));
  MOULT_CO_RETURN_IF_ERROR(vm->NeedServers(vm->config().pool->lends()));
  MOULT_CO_RETURN_IF_ERROR(co_await StopFetching(vm, op, config.function));
  const Moving moving(vm, config.function);
  MOULT_CO_RETURN_IF_ERROR(moving.status());
  MOULT_CO_RETURN_IF_ERROR(MayLive(vm, config.function));
  MOULT_CO_ASSIGN_OR_RETURN(Lease lease, co_await vm->Acquire(op));
  MOULT_CO_ASSIGN_OR_RETURN(const rpc::ListReplyT list, co_await ListFunctions(op, &*lease));
  MOULT_CO_ASSIGN_OR_RETURN(const rpc::FunctionState state, StateOf(list, config.function));
  // The room of those that have ended may be what this one needs.
  vm->LearnEnded(list);
  const absl::Status dropped = co_await DropFreed(vm, op, &*lease);
  if (!dropped.ok() && lease->broken()) co_return dropped;
  auto frozen = co_await lease->Call<rpc::FunctionReplyT>(op->strand(), Of<rpc::FreezeT>(config.function));
  if (!frozen.ok() && !lease->broken()) co_return frozen.status();
  op->EndPhase("freeze");
  absl::Status moved = frozen.status();  // when the connection was lost it may be frozen all the same
  const bool stood_still = state == rpc::FunctionState::Frozen;
  if (moved.ok()) moved = co_await Move(vm, op, &*lease, &config, stood_still || !config.run_on);
  if (stood_still || (moved.ok() && !config.run_on)) co_return moved;
  // It must not stay frozen because our time is up, or somebody does not want to wait.
  op->strand()->set_shielded(true);
  op->strand()->set_deadline(std::max(op->strand()->deadline(), Clock::now() + kThawTime));
  absl::Status thawed;
  if (!lease->broken()) thawed = co_await Thaw(op, &*lease, config.function);
  // It may have broken long ago: nothing was said over it while pages were copied.
  const bool broken = lease->broken();
  lease.Return();  // before another is asked for
  if (broken) thawed = co_await ThawAnew(vm, op, config.function);
  moved.Update(thawed);
  op->strand()->set_shielded(false);
  co_return moved;
}

// It runs.
Task<absl::Status> FetchRest(Vm* vm, Op* op, uint64_t function, const Moving& moving) {
  std::stop_source stop = moving.AllowStop();
  const std::stop_callback cancelled(op->strand()->stop_token(), [&stop] { stop.request_stop(); });
  absl::Status fetched = co_await Fetch(vm, op, function, Prefetch::kAll, stop.get_token());
  op->EndPhase("recall");
  if (absl::IsCancelled(fetched) && !op->strand()->stop_token().stop_requested()) {
    co_return absl::AbortedError(absl::StrCat("function ", function, ": an offload of it has begun; what was not back stays out"));
  }
  co_return fetched;
}

Task<absl::Status> Recall(Vm* vm, Op* op, RecallConfig config) {
  op->result().function = config.function;
  MOULT_CO_RETURN_IF_ERROR(NeedPager(*vm));
  const Moving moving(vm, config.function);
  MOULT_CO_RETURN_IF_ERROR(moving.status());
  MOULT_CO_RETURN_IF_ERROR(MayLive(vm, config.function));
  MOULT_CO_ASSIGN_OR_RETURN(Lease lease, co_await vm->Acquire(op));
  const uint64_t before = vm->pager()->owner_stats(config.function).prefetched_pages;
  // With the working set there it can run while the rest comes.
  const Prefetch first = config.prefetch == Prefetch::kAll ? Prefetch::kWorkingSet : config.prefetch;
  absl::Status fetched = co_await Fetch(vm, op, config.function, first, op->strand()->stop_token());
  op->EndPhase("prefetch");
  if (fetched.ok()) fetched = co_await Thaw(op, &*lease, config.function);
  if (fetched.ok() && config.prefetch == Prefetch::kAll) fetched = co_await FetchRest(vm, op, config.function, moving);
  const PagerCounts counts = vm->pager()->owner_stats(config.function);
  op->result().bytes = (counts.prefetched_pages - before) * kPage;
  op->result().json["prefetched_bytes"] = op->result().bytes;
  op->result().json["left_bytes"] = counts.offloaded_bytes + counts.zero_bytes;
  co_return fetched;
}

Task<absl::Status> RecallAll(Vm* vm, Op* op) {
  MOULT_CO_RETURN_IF_ERROR(NeedPager(*vm));
  const auto out = [vm] {
    const PagerCounts counts = vm->pager()->stats().total;
    return counts.offloaded_bytes + counts.zero_bytes;
  };
  const uint64_t before = out();
  std::function<absl::Status()> work = [vm, stop = op->strand()->stop_token()] {
    return vm->pager()->RecallAll(stop);
  };
  const absl::Status recalled = co_await op->strand()->Work(std::move(work));
  op->EndPhase("recall");
  // Somebody may have offloaded more meanwhile.
  op->result().json["recalled_bytes"] = before - std::min(before, out());
  co_return recalled;
}

Task<absl::Status> BringBack(Vm* vm, Op* op, uint64_t function) {
  if (vm->pager() == nullptr || !vm->offloaded().contains(function)) co_return absl::OkStatus();
  absl::Status back = co_await Fetch(vm, op, function, Prefetch::kAll, op->strand()->stop_token());
  op->EndPhase("recall");
  co_return Annotate(back, absl::StrCat("bring the pages of function ", function, " back from the pool"));
}

}  // namespace moult::host::ops
