// SPDX-License-Identifier: Apache-2.0
#include "ledger/page_ledger.h"

#include <algorithm>

#include "memory/cut_runs.h"
#include "moult/base/status.h"

namespace moult::host {
namespace {

using rpc::PageClass;
using rpc::PageRun;

uint64_t End(const PageRun& run) { return run.gpa() + run.length(); }

bool Has(const PageRun& run, uint64_t gpa) { return gpa >= run.gpa() && gpa - run.gpa() < run.length(); }

bool IsRam(const PageRun& run) { return run.page_class() != PageClass::Template; }

PageRun Hole(uint64_t gpa, uint64_t length) {
  return {gpa, length, 0, 0, 0, 0, 0, PageClass::Reserved, rpc::PageKind::Hole, 0, rpc::Segment::None, rpc::PageFlag{}};
}

PageRun PartOf(const PageRun& run, uint64_t at, uint64_t length) {
  return {run.gpa() + at,
          length,
          run.va() != 0 ? run.va() + at : 0,
          run.file() != 0 ? run.file_offset() + at : 0,
          run.function(),
          run.pid(),
          run.file(),
          run.page_class(),
          run.kind(),
          run.prot(),
          run.segment(),
          run.flags()};
}

}  // namespace

absl::StatusOr<PageLedger> PageLedger::Make(rpc::PagesReportT report, std::vector<PageRun> runs, const GuestMemory& memory) {
  PageLedger ledger;
  ledger.report_ = std::move(report);
  ledger.runs_ = std::move(runs);
  MOULT_RETURN_IF_ERROR(rpc::CheckPageRuns(ledger.report_, ledger.runs_));
  if (!memory.empty()) {
    CutAtRegions(memory, &ledger.runs_, PartOf);
    for (const PageRun& run : ledger.runs_) {
      if (!IsRam(run)) break;
      const auto there = memory.Translate({GuestPhys(run.gpa()), run.length()});
      if (!there.ok()) return absl::DataLossError(absl::StrCat("the agent tells of pages that are not the guest's RAM: ", there.status().message()));
    }
    if (!ledger.report_.ram.empty()) ledger.AddHoles(memory);
  }
  const auto first = std::find_if_not(ledger.runs_.begin(), ledger.runs_.end(), IsRam);
  ledger.windows_ = static_cast<size_t>(first - ledger.runs_.begin());
  for (size_t i = 0; i < ledger.windows_; ++i) ledger.ram_bytes_ += ledger.runs_[i].length();
  return ledger;
}

// What firmware keeps, and what the guest's kernel was told not to use.
void PageLedger::AddHoles(const GuestMemory& memory) {
  std::vector<PageRun> all;
  all.reserve(runs_.size() + 16);
  auto next = runs_.begin();
  for (const GuestMemory::Extent& extent : memory.Extents()) {
    const uint64_t region_end = extent.range.first() + extent.range.length;
    uint64_t at = extent.range.first();
    for (; next != runs_.end() && IsRam(*next) && next->gpa() < region_end; ++next) {
      if (next->gpa() > at) all.push_back(Hole(at, next->gpa() - at));
      all.push_back(*next);
      at = End(*next);
    }
    if (at < region_end) all.push_back(Hole(at, region_end - at));
  }
  all.insert(all.end(), next, runs_.end());
  runs_ = std::move(all);
}

const PageRun* PageLedger::Find(GuestPhys gpa) const {
  const auto address = static_cast<uint64_t>(gpa);
  const auto windows = runs_.begin() + static_cast<ptrdiff_t>(windows_);
  auto behind = std::upper_bound(runs_.begin(), windows, address, [](uint64_t at, const PageRun& run) { return at < run.gpa(); });
  if (behind != runs_.begin() && Has(*std::prev(behind), address)) return &*std::prev(behind);
  const auto shown = std::find_if(windows, runs_.end(), [address](const PageRun& run) { return Has(run, address); });
  return shown != runs_.end() ? &*shown : nullptr;
}

const std::string* PageLedger::FileOf(const PageRun& run) const {
  return run.file() != 0 ? &report_.files[run.file() - 1] : nullptr;
}

const rpc::PagesProcessT* PageLedger::ProcessOf(const PageRun& run) const {
  const auto found = std::find_if(report_.processes.begin(), report_.processes.end(),
                                  [&](const auto& process) { return process->pid == run.pid(); });
  return run.pid() != 0 && found != report_.processes.end() ? found->get() : nullptr;
}

namespace {

// Whose it is, and as what: a page that only moved within the same mapping is another page of RAM all the same.
bool Same(const PageRun& a, uint64_t a_gpa, const PageRun& b) {
  const uint64_t inside = a_gpa - a.gpa();
  const uint64_t other = a_gpa - b.gpa();
  return a.page_class() == b.page_class() && a.kind() == b.kind() && a.function() == b.function() && a.pid() == b.pid() &&
         (a.pid() == 0 || a.va() + inside == b.va() + other);
}

// Runs of RAM, cut where either list has a border.
class Walker {
 public:
  explicit Walker(const std::vector<PageRun>& runs) : runs_(runs) {}
  // Goes to the first run that ends behind `gpa`; null: there is none.
  const PageRun* At(uint64_t gpa) {
    while (next_ < runs_.size() && IsRam(runs_[next_]) && End(runs_[next_]) <= gpa) ++next_;
    return next_ < runs_.size() && IsRam(runs_[next_]) ? &runs_[next_] : nullptr;
  }

 private:
  const std::vector<PageRun>& runs_;
  size_t next_ = 0;
};

}  // namespace

void Compare(const PageLedger& before, const PageLedger& after, const std::function<void(const PageChange&)>& each) {
  Walker old_runs(before.runs());
  Walker new_runs(after.runs());
  uint64_t at = 0;
  for (;;) {
    const PageRun* a = old_runs.At(at);
    const PageRun* b = new_runs.At(at);
    if (a == nullptr && b == nullptr) return;
    const uint64_t a_start = a != nullptr ? a->gpa() : UINT64_MAX;
    const uint64_t b_start = b != nullptr ? b->gpa() : UINT64_MAX;
    at = std::max(at, std::min(a_start, b_start));
    const bool in_a = a_start <= at;
    const bool in_b = b_start <= at;
    uint64_t end = UINT64_MAX;
    if (a != nullptr) end = std::min(end, in_a ? End(*a) : a_start);
    if (b != nullptr) end = std::min(end, in_b ? End(*b) : b_start);
    if (!(in_a && in_b && Same(*a, at, *b))) {
      each({{GuestPhys(at), end - at}, in_a ? a : nullptr, in_b ? b : nullptr});
    }
    at = end;
  }
}

}  // namespace moult::host
