// SPDX-License-Identifier: Apache-2.0
#include "ledger/page_ledger.h"

#include <algorithm>

#include "ledger/compare_runs.h"
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

PageRun PartWith(const PageRun& run, uint64_t at, uint64_t length, rpc::PageFlag flags) {
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
          flags};
}

PageRun PartOf(const PageRun& run, uint64_t at, uint64_t length) { return PartWith(run, at, length, run.flags()); }

}  // namespace

absl::StatusOr<PageLedger> PageLedger::Make(rpc::PagesReportT report, std::vector<PageRun> runs, const GuestMemory& memory) {
  PageLedger ledger;
  ledger.report_ = std::move(report);
  ledger.runs_ = std::move(runs);
  MOULT_RETURN_IF_ERROR(rpc::CheckPageRuns(ledger.report_, ledger.runs_));
  for (PageRun& run : ledger.runs_) run = PartWith(run, 0, run.length(), run.flags() & ~kOffloaded);
  if (!memory.empty()) {
    CutAtRegions(memory, &ledger.runs_, PartOf);
    for (const PageRun& run : ledger.runs_) {
      if (!IsRam(run)) break;
      const auto there = memory.Translate({GuestPhys(run.gpa()), run.length()});
      if (!there.ok()) return absl::DataLossError(absl::StrCat("the agent tells of pages that are not the guest's RAM: ", there.status().message()));
    }
    if (!ledger.report_.ram.empty()) ledger.AddHoles(memory);
  }
  ledger.CountRam();
  return ledger;
}

void PageLedger::CountRam() {
  windows_ = static_cast<size_t>(std::find_if_not(runs_.begin(), runs_.end(), IsRam) - runs_.begin());
  ram_bytes_ = 0;
  for (size_t i = 0; i < windows_; ++i) ram_bytes_ += runs_[i].length();
}

void PageLedger::MarkOffloaded(const std::function<std::vector<bool>(GuestRange)>& out) {
  std::vector<PageRun> all;
  all.reserve(runs_.size());
  for (const PageRun& run : runs_) {
    const bool users = run.page_class() == PageClass::UserPrivate || run.page_class() == PageClass::UserShared;
    std::vector<bool> pages;
    if (users) pages = out({GuestPhys(run.gpa()), run.length()});
    if (std::find(pages.begin(), pages.end(), true) == pages.end()) {
      all.push_back(run);
      continue;
    }
    for (auto at = pages.begin(); at != pages.end();) {
      const auto end = std::find(at, pages.end(), !*at);
      all.push_back(PartWith(run, static_cast<uint64_t>(at - pages.begin()) * kPage, static_cast<uint64_t>(end - at) * kPage,
                             *at ? run.flags() | kOffloaded : run.flags()));
      at = end;
    }
  }
  runs_ = std::move(all);
  CountRam();
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

absl::Span<const PageRun> Ram(const PageLedger& ledger) {
  const auto windows = std::find_if_not(ledger.runs().begin(), ledger.runs().end(), IsRam);
  return absl::MakeConstSpan(ledger.runs()).first(static_cast<size_t>(windows - ledger.runs().begin()));
}

}  // namespace

void Compare(const PageLedger& before, const PageLedger& after, const std::function<void(const PageChange&)>& each) {
  const auto compared = [](const PageRun& run) {
    return ComparedRun{.gpa = run.gpa(),
                       .length = run.length(),
                       .page_class = static_cast<uint64_t>(run.page_class()),
                       .kind = static_cast<uint64_t>(run.kind()),
                       .function = run.function(),
                       .pid = run.pid(),
                       .va = run.va()};
  };
  CompareRuns(Ram(before), Ram(after), compared, compared,
              [&each](uint64_t first, uint64_t length, const PageRun* old_run, const PageRun* new_run) {
                each({{GuestPhys(first), length}, old_run, new_run});
              });
}

}  // namespace moult::host
