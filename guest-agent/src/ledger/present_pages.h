// SPDX-License-Identifier: Apache-2.0
//
// Reads /proc/PID/pagemap without spending time on address space that holds nothing: runtimes reserve it by the
// gigabyte, sanitizers by the terabyte, and pagemap has an entry for every page of it.
#ifndef MOULT_LEDGER_PRESENT_PAGES_H_
#define MOULT_LEDGER_PRESENT_PAGES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "moult/base/status.h"
#include "moult/base/unique_fd.h"
#include "proc/maps.h"

namespace moult::agent {

// A mapping, and how to read it.
struct MappedPart {
  proc::MapsEntry entry;
  bool empty = false;  // holds nothing
  bool large = false;  // it pays to ask what there is in it
};

// The mappings of the process in `folder` (/proc/PID). With `ask`, and where there are large ones, smaps tells which of them hold
// nothing, which takes a walk through all page tables; without, the pages of VM_PFNMAP mappings may be left out later.
absl::StatusOr<std::vector<MappedPart>> ReadMappedParts(const std::string& folder, bool ask);

class PresentPages {
 public:
  // By PAGEMAP_SCAN where the kernel has it, or as before Linux 6.7.
  enum class Source { kBest, kPagemap };

  static absl::StatusOr<PresentPages> Open(const std::string& folder, Source source = Source::kBest);

  // Calls `each` with entries of pages that follow each other, the first of the page at `address`. Absent ones are among them;
  // of those that are left out all are absent. Ends early when the memory has gone meanwhile.
  using Entries = absl::FunctionRef<absl::Status(uint64_t address, absl::Span<const uint64_t> entries)>;
  absl::Status Read(uint64_t start, uint64_t end, bool large, Entries each);

 private:
  PresentPages(UniqueFd pagemap, std::string path, bool scans) : pagemap_(std::move(pagemap)), path_(std::move(path)), scans_(scans) {}
  absl::Status ReadAll(uint64_t start, uint64_t end, Entries each);

  UniqueFd pagemap_;
  std::string path_;
  bool scans_;
  std::vector<uint64_t> raw_;
};

}  // namespace moult::agent

#endif  // MOULT_LEDGER_PRESENT_PAGES_H_
