// SPDX-License-Identifier: Apache-2.0
//
// The pages that processes have in their page tables, by frame.
#ifndef MOULT_LEDGER_ADDRESS_SPACE_H_
#define MOULT_LEDGER_ADDRESS_SPACE_H_

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "absl/types/span.h"
#include "ledger/present_pages.h"
#include "moult/base/status.h"

namespace moult::agent {

class Accesses;

// A mapping of one process.
struct Vma {
  uint32_t process = 0;  // index in the caller's list
  uint64_t start = 0;
  uint64_t file_offset = 0;  // of `start`
  uint32_t file = 0;         // counted from 1 in FileNames; 0: none
  uint8_t prot = 0;          // 1 read, 2 write, 4 execute
};

// One entry of a page table.
struct Mapping {
  uint64_t frame = 0;
  uint64_t va = 0;
  uint32_t vma = 0;  // index in AddressSpaces::vmas
  bool file_or_shared = false;  // else private to who maps it
  bool accessed = false;        // since that was last forgotten; false when nobody looked
  bool operator==(const Mapping&) const = default;
};

class AddressSpaces {
 public:
  explicit AddressSpaces(PresentPages::Source source = PresentPages::Source::kBest) : source_(source) {}
  // What somebody else has found.
  AddressSpaces(std::vector<Vma> vmas, std::vector<Mapping> mappings) : vmas_(std::move(vmas)), mappings_(std::move(mappings)) {
    Sort();
  }
  // Adds what process `pid`, number `index` of the caller's list, has; with `accesses` also what of it was touched.
  // kNotFound: it has gone.
  absl::Status Add(pid_t pid, uint32_t index, const Accesses* accesses = nullptr);
  // To be called once all are in: mappings rise by frame, then by mapping and address.
  void Sort();

  const std::vector<Vma>& vmas() const { return vmas_; }
  const std::vector<Mapping>& mappings() const { return mappings_; }
  // As the processes see them.
  const std::vector<std::string>& files() const { return files_; }

 private:
  absl::Status AddEntries(uint64_t address, absl::Span<const uint64_t> entries, uint32_t vma);
  uint32_t FileNumber(uint64_t device, uint64_t inode, const std::string& path);

  PresentPages::Source source_ = PresentPages::Source::kBest;
  std::vector<Vma> vmas_;
  std::vector<Mapping> mappings_;
  std::vector<std::string> files_;
  std::map<std::tuple<uint64_t, uint64_t, std::string>, uint32_t> numbers_;
};

}  // namespace moult::agent

#endif  // MOULT_LEDGER_ADDRESS_SPACE_H_
