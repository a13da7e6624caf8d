// SPDX-License-Identifier: Apache-2.0
//
// The page ledger: fetched from the agent, and looked up.
#include <algorithm>
#include <array>
#include <map>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "ledger/page_ledger.h"
#include "moult/base/status.h"
#include "moult/protocol/limits.h"
#include "session/ops.h"

namespace moult::host::ops {
namespace {

constexpr size_t kRunsAtATime = 16384;
constexpr uint64_t kRunsWithoutRam = 4 << 20;  // when it is not known how much RAM there is

// Every page of RAM and of windows a run of its own, and these shown twice.
uint64_t MostRuns(const Vm& vm) {
  if (vm.memory().empty()) return kRunsWithoutRam;
  uint64_t bytes = vm.memory().size();
  for (const auto& window : vm.hello().windows) bytes += 2 * std::min<uint64_t>(window->size, vm.memory().size());
  return bytes / kPage;
}

void MarkOffloaded(Pager* pager, PageLedger* ledger) {
  if (pager != nullptr) ledger->MarkOffloaded([pager](GuestRange range) { return pager->Out(range); });
}

// Of each function, how much of what is its own is of which segment, and how much of that, and of all, is out.
void AddSegments(const PageLedger& ledger, Json* json) {
  struct Sums {
    uint64_t bytes = 0;
    uint64_t offloaded_bytes = 0;
  };
  constexpr size_t kNumbers = static_cast<size_t>(rpc::Segment::MAX) + 1;
  std::map<uint64_t, std::array<Sums, kNumbers>> functions;
  for (const rpc::PageRun& run : ledger.runs()) {
    if (run.page_class() != rpc::PageClass::UserPrivate && run.page_class() != rpc::PageClass::UserShared) continue;
    Sums& sums = functions[run.function()][static_cast<size_t>(run.segment())];
    sums.bytes += run.length();
    if ((run.flags() & kOffloaded) != rpc::PageFlag{}) sums.offloaded_bytes += run.length();
  }
  for (Json& function : (*json)["functions"]) {
    const auto& all = functions[function["id"].get<uint64_t>()];
    function["offloaded"] = absl::c_accumulate(all, uint64_t{0}, [](uint64_t out, const Sums& sums) { return out + sums.offloaded_bytes; });
    for (size_t i = static_cast<size_t>(rpc::Segment::Runtime); i < kNumbers; ++i) {
      const Sums& sums = all[i];
      const std::string name = absl::AsciiStrToLower(rpc::EnumNameSegment(static_cast<rpc::Segment>(i)));
      function["segments"][name] = {{"bytes", sums.bytes}, {"offloaded_bytes", sums.offloaded_bytes}};
    }
  }
}

std::string NameOf(const rpc::ListReplyT& list, uint64_t function) {
  for (const auto& info : list.functions) {
    if (info->id == function) return info->spec->name;
  }
  return "";
}

}  // namespace

Task<absl::StatusOr<PageLedger>> FetchLedger(Vm* vm, Op* op, Connection* connection, uint64_t function) {
  if (!absl::c_linear_search(vm->hello().features, "pages")) {
    co_return absl::UnimplementedError("the guest's agent has no page ledger; update it, allow \"Pages\" in its configuration, and give it cgroup v2");
  }
  rpc::PagesT pages;
  pages.function = function;
  auto report = co_await connection->Call<rpc::PagesReportT>(op->strand(), std::move(pages), rpc::kMaxResponse);
  if (!report.ok()) co_return report.status();
  op->AddAgentPhases(report->phases);
  op->EndPhase("await_report");
  if (report->run_count > MostRuns(*vm)) {
    connection->Break();
    co_return absl::DataLossError(absl::StrCat("the agent tells of ", report->run_count, " runs of pages, more than there are pages"));
  }
  // Grows with what has come.
  std::vector<rpc::PageRun> runs;
  while (runs.size() < report->run_count) {
    connection->Break();  // good again when all has come
    const size_t at = runs.size();
    const size_t count = std::min<uint64_t>(report->run_count - at, kRunsAtATime);
    runs.resize(at + count);
    // SAFETY: plain numbers in the layout of the frames, and `count` of them from `at` on are in the vector.
    const auto bytes = absl::MakeSpan(reinterpret_cast<std::byte*>(runs.data() + at), count * sizeof(rpc::PageRun));
    MOULT_CO_RETURN_IF_ERROR(co_await connection->ReceiveData(op->strand(), bytes));
  }
  op->EndPhase("receive");
  auto ledger = PageLedger::Make(*std::move(report), std::move(runs), vm->memory());
  op->EndPhase("check");
  co_return std::move(ledger);
}

Task<absl::StatusOr<rpc::ListReplyT>> ListFunctions(Op* op, Connection* connection) {
  rpc::ListT list;
  co_return co_await connection->Call<rpc::ListReplyT>(op->strand(), std::move(list), rpc::kMaxResponse);
}

Task<absl::Status> Pause(Op* op, std::chrono::milliseconds time, const char* what) {
  const auto deadline = op->strand()->deadline();
  op->strand()->set_deadline(std::min(deadline, Clock::now() + time));
  const absl::Status waited = co_await op->strand()->ForWake(what);
  op->strand()->set_deadline(deadline);
  co_return absl::IsDeadlineExceeded(waited) ? absl::OkStatus() : waited;
}

absl::StatusOr<rpc::FunctionState> StateOf(const rpc::ListReplyT& list, uint64_t function) {
  for (const auto& info : list.functions) {
    if (info->id == function) return info->state;
  }
  return absl::NotFoundError(absl::StrCat("no function ", function));
}

Task<absl::Status> Pages(Vm* vm, Op* op, PagesConfig config) {
  op->result().function = config.function;
  MOULT_CO_ASSIGN_OR_RETURN(Lease lease, co_await vm->Acquire(op));
  MOULT_CO_ASSIGN_OR_RETURN(PageLedger ledger, co_await FetchLedger(vm, op, &*lease, config.function));
  MOULT_CO_ASSIGN_OR_RETURN(const rpc::ListReplyT list, co_await ListFunctions(op, &*lease));
  MarkOffloaded(vm->pager(), &ledger);
  op->result().json.update(ledger.Summary(list));
  AddSegments(ledger, &op->result().json);
  if (config.runs) op->result().json.update(ledger.RunsJson());
  op->result().ledger = std::make_shared<const PageLedger>(std::move(ledger));
  co_return absl::OkStatus();
}

Task<absl::Status> Why(Vm* vm, Op* op, GuestPhys gpa) {
  MOULT_CO_ASSIGN_OR_RETURN(Lease lease, co_await vm->Acquire(op));
  MOULT_CO_ASSIGN_OR_RETURN(PageLedger ledger, co_await FetchLedger(vm, op, &*lease, 0));
  MarkOffloaded(vm->pager(), &ledger);
  const auto page = GuestPhys(static_cast<uint64_t>(gpa) & ~(kPage - 1));
  const rpc::PageRun* run = ledger.Find(page);
  if (run == nullptr) {
    co_return absl::NotFoundError(
        absl::StrFormat("guest-physical %#x is neither RAM of this VM nor a template's page that a function shows",
                        static_cast<uint64_t>(gpa)));
  }
  MOULT_CO_ASSIGN_OR_RETURN(const rpc::ListReplyT list, co_await ListFunctions(op, &*lease));
  Json& json = op->result().json;
  json["gpa"] = static_cast<uint64_t>(gpa);
  const auto memory = vm->GuestView({page, kPage});
  if (memory.ok()) json["hva"] = reinterpret_cast<uint64_t>(memory->data()) + (static_cast<uint64_t>(gpa) & (kPage - 1));
  json.update(RunJson(ledger, *run, page, NameOf(list, run->function())));
  op->result().function = run->function();
  co_return absl::OkStatus();
}

}  // namespace moult::host::ops
