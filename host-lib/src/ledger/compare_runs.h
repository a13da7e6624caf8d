// SPDX-License-Identifier: Apache-2.0
//
// Where two ledgers differ, for whoever has runs of pages: this library its own, moultctl those of a report.
#ifndef MOULT_HOST_LEDGER_COMPARE_RUNS_H_
#define MOULT_HOST_LEDGER_COMPARE_RUNS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"

namespace moult::host {

// Of a run of pages, what counts: whose it is, and as what.
struct ComparedRun {
  uint64_t gpa = 0;
  uint64_t length = 0;
  uint64_t page_class = 0;
  uint64_t kind = 0;
  uint64_t function = 0;
  uint64_t pid = 0;  // 0: mapped by none
  uint64_t va = 0;   // of the first page

  uint64_t end() const { return gpa + length; }
  // A page that only moved within the same mapping is another page of RAM all the same.
  bool Same(const ComparedRun& other, uint64_t at) const {
    return page_class == other.page_class && kind == other.kind && function == other.function &&
           pid == other.pid && (pid == 0 || va + (at - gpa) == other.va + (at - other.gpa));
  }
};

// Calls each(first, length, before, after) for the pages that differ, rising, cut where either list has a
// border; the two are the runs that have them, null: none. The lists are of RAM: rising and disjoint.
// `as_before` and `as_after` make a ComparedRun of one of the runs.
template <typename Run, typename AsBefore, typename AsAfter, typename Each>
void CompareRuns(absl::Span<const Run> before, absl::Span<const Run> after, AsBefore as_before,
                 AsAfter as_after, Each each) {
  size_t a = 0;
  size_t b = 0;
  uint64_t at = 0;
  for (;;) {
    while (a < before.size() && as_before(before[a]).end() <= at) ++a;
    while (b < after.size() && as_after(after[b]).end() <= at) ++b;
    const bool any_a = a < before.size();
    const bool any_b = b < after.size();
    if (!any_a && !any_b) return;
    const ComparedRun one = any_a ? as_before(before[a]) : ComparedRun{.gpa = UINT64_MAX};
    const ComparedRun other = any_b ? as_after(after[b]) : ComparedRun{.gpa = UINT64_MAX};
    at = std::max(at, std::min(one.gpa, other.gpa));
    const bool in_a = one.gpa <= at;
    const bool in_b = other.gpa <= at;
    uint64_t end = UINT64_MAX;
    if (any_a) end = std::min(end, in_a ? one.end() : one.gpa);
    if (any_b) end = std::min(end, in_b ? other.end() : other.gpa);
    if (!(in_a && in_b && one.Same(other, at)))
      each(at, end - at, in_a ? &before[a] : nullptr, in_b ? &after[b] : nullptr);
    at = end;
  }
}

}  // namespace moult::host

#endif  // MOULT_HOST_LEDGER_COMPARE_RUNS_H_
