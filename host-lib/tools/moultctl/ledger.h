// SPDX-License-Identifier: Apache-2.0
//
// The page ledger as the method `pages` tells it: whose each page of guest RAM is. Parsed once, strictly, so
// that what draws it need not doubt it: the numbers are a guest's.
#ifndef MOULT_TOOLS_MOULTCTL_LEDGER_H_
#define MOULT_TOOLS_MOULTCTL_LEDGER_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "control/message.h"

namespace moult::ctl {

using control::Json;

inline constexpr uint64_t kPageBytes = 4096;
inline constexpr char kTemplateClass[] = "template";  // the class whose pages lie in a window, and may be shown to several

struct Amount {
  std::string name;
  uint64_t bytes = 0;
};

// What a function's own pages are by the time that they came: before its runtime was up, before it was ready, later.
inline constexpr std::array<const char*, 3> kSegments{"runtime", "init", "exec"};
struct SegmentPages {
  uint64_t bytes = 0;
  uint64_t offloaded = 0;  // of these
  bool operator==(const SegmentPages&) const = default;
};
using Segments = std::array<std::optional<SegmentPages>, kSegments.size()>;

// Bytes; what was not told is nullopt.
struct FunctionPages {
  uint64_t id = 0;
  std::string name;
  std::string state;
  bool exact = false;  // it stood still while it was looked at
  std::optional<uint64_t> user_private, user_shared, user_file, template_bytes, offloaded, on_behalf;
  Segments segments;
};

// Neighbouring pages that have everything in common. Whole pages; gpa + length does not overflow.
struct PageRun {
  uint64_t gpa = 0;
  uint64_t length = 0;
  size_t page_class = 0;  // index into class_names
  size_t kind = 0;        // into kind_names
  uint64_t function = 0;  // 0: none
  uint64_t pid = 0;       // 0: none
  uint64_t va = 0;
  std::optional<size_t> file;  // into files
  uint64_t file_offset = 0;
  uint64_t prot = 0;   // bits: 1 read, 2 write, 4 execute
  size_t segment = 0;  // into segment_names
  uint64_t flags = 0;  // bit i is flag_names[i]
};

struct Ledger {
  uint64_t ram_bytes = 0;
  uint64_t template_bytes = 0;
  std::vector<Amount> classes;
  std::vector<Amount> kinds;
  std::vector<FunctionPages> functions;
  std::vector<std::string> files;
  std::vector<std::string> class_names, kind_names, segment_names, flag_names;
  std::vector<PageRun> runs;  // rising, none overlaps another
};

// kDataLoss names the member, or the run, that is not as it must be.
absl::StatusOr<Ledger> ParseLedger(const Json& result);

// A member that is a whole number; nullopt where there is none, or something else.
std::optional<uint64_t> Whole(const Json& json, const char* key);

}  // namespace moult::ctl

#endif  // MOULT_TOOLS_MOULTCTL_LEDGER_H_
