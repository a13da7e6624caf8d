// SPDX-License-Identifier: Apache-2.0
//
// The page ledger as the host has it: what the agent says every page of the guest is, checked against the RAM that the VM
// has. It is the guest's word: nothing that this library does to memory relies on it alone.
#ifndef MOULT_HOST_LEDGER_PAGE_LEDGER_H_
#define MOULT_HOST_LEDGER_PAGE_LEDGER_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "json/json.h"
#include "memory/guest_memory.h"
#include "moult/protocol/message.h"
#include "moult/protocol/page_runs.h"

namespace moult::host {

// What two ledgers say of the same pages, where they differ. Each has the first page's; null: not told of.
struct PageChange {
  GuestRange range;
  const rpc::PageRun* before;
  const rpc::PageRun* after;
};

// MOULT_PAGE_OFFLOADED: no guest says so.
inline constexpr auto kOffloaded = static_cast<rpc::PageFlag>(1u << 8);

class PageLedger {
 public:
  // `report` has been checked, `runs` not. A report of all the guest's RAM gets what of `memory` the guest's kernel does
  // not know of, as Reserved. kDataLoss: the agent breaks the protocol, or tells of RAM that is not there.
  static absl::StatusOr<PageLedger> Make(rpc::PagesReportT report, std::vector<rpc::PageRun> runs, const GuestMemory& memory);

  // Marks the users' pages that are out, kOffloaded; runs are cut where that begins and ends. `out`: for each page of a
  // range, whether it is; empty: none.
  void MarkOffloaded(const std::function<std::vector<bool>(GuestRange)>& out);

  // Of RAM, rising and disjoint; then of windows.
  const std::vector<rpc::PageRun>& runs() const { return runs_; }
  const rpc::PagesReportT& report() const { return report_; }
  // The run that has this page of RAM, or else the first of a window that has; null: none.
  const rpc::PageRun* Find(GuestPhys gpa) const;
  // How flag Accessed of its pages was found: "mark", "mapping" or "page"; see moult/pages.h.
  std::string AccessOf(uint64_t function) const;
  // Null: it has none.
  const std::string* FileOf(const rpc::PageRun& run) const;
  const rpc::PagesProcessT* ProcessOf(const rpc::PageRun& run) const;

  // Sums, in bytes; see moult.h.
  Json Summary(const rpc::ListReplyT& functions) const;
  // Names of what follows, and the runs as lists of numbers.
  Json RunsJson() const;

 private:
  PageLedger() = default;
  void AddHoles(const GuestMemory& memory);
  void CountRam();

  rpc::PagesReportT report_;
  std::vector<rpc::PageRun> runs_;
  size_t windows_ = 0;  // index of the first run of a window
  uint64_t ram_bytes_ = 0;
};

// The pages of RAM whose class, owner or place differ, rising.
void Compare(const PageLedger& before, const PageLedger& after, const std::function<void(const PageChange&)>& each);

// "anonymous memory of process 312 (python3) of function 4 (thumb)": one sentence. `name` of the function, may be empty.
std::string Reason(const PageLedger& ledger, const rpc::PageRun& run, const std::string& name);

// All of one run, as one page of it has them.
Json RunJson(const PageLedger& ledger, const rpc::PageRun& run, GuestPhys page, const std::string& name);

}  // namespace moult::host

#endif  // MOULT_HOST_LEDGER_PAGE_LEDGER_H_
