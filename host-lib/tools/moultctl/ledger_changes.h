// SPDX-License-Identifier: Apache-2.0
//
// What differs between two reports of the page ledger, an earlier one and that of now.
#ifndef MOULT_TOOLS_MOULTCTL_LEDGER_CHANGES_H_
#define MOULT_TOOLS_MOULTCTL_LEDGER_CHANGES_H_

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "ledger.h"

namespace moult::ctl {

// Pages of RAM whose class, kind, owner or place is another now, as moult_pages_compare() has it.
struct LedgerChange {
  uint64_t gpa = 0;
  uint64_t length = 0;
  const PageRun* before = nullptr;  // the runs that have them, within the two ledgers; null: not told of
  const PageRun* now = nullptr;
};

class LedgerChanges {
 public:
  // Both with runs; they must outlive this. `function`: only of pages that were or are this one's; 0: of all.
  LedgerChanges(const Ledger& before, const Ledger& now, uint64_t function);

  const std::vector<LedgerChange>& changes() const { return changes_; }
  // Ids of those that either tells of, or the one that was asked for, if any does.
  std::set<uint64_t> functions() const;
  // Sums of each class and function in both, what has become what; with `runs` also each change by itself.
  std::string Text(bool runs) const;
  Json ToJson(bool runs) const;

 private:
  // Pages that were this, and are that.
  struct Turn;
  std::vector<Turn> Turns() const;

  const Ledger& before_;
  const Ledger& now_;
  const uint64_t function_;
  std::vector<LedgerChange> changes_;
};

// A report that `moultctl pages --json --runs` has printed. The error names the file and the remedy.
absl::StatusOr<Ledger> ReadReport(const std::string& path);

}  // namespace moult::ctl

#endif  // MOULT_TOOLS_MOULTCTL_LEDGER_CHANGES_H_
