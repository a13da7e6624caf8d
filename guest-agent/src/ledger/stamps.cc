// SPDX-License-Identifier: Apache-2.0
#include "ledger/stamps.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "function/record.h"
#include "moult/base/page.h"
#include "proc/read.h"
#include "proc/text.h"

namespace moult::agent {
namespace {

using rpc::Segment;

constexpr char kName[] = "/stamps";
constexpr size_t kFields = 4;

// Memory that has the shape of a file's, but is the function's own.
bool IsSharedMemory(const std::string& path) {
  return absl::StartsWith(path, "/dev/zero") || absl::StartsWith(path, "/memfd:") ||
         absl::StartsWith(path, "/dev/shm/") || absl::StartsWith(path, "[anon_shmem");
}

absl::Status Damaged(absl::string_view line) {
  return absl::DataLossError(absl::StrCat("stamps: \"", line.substr(0, 80), "\": not a line of this agent's"));
}

}  // namespace

void Stamps::Add(pid_t pid, Segment segment, const AddressSpaces& spaces) {
  std::vector<uint64_t> held;
  for (const Mapping& mapping : spaces.mappings()) {
    const uint32_t file = spaces.vmas()[mapping.vma].file;
    const bool own = !mapping.file_or_shared || file == 0 || IsSharedMemory(spaces.files()[file - 1]);
    if (own) held.push_back(mapping.va);
  }
  std::sort(held.begin(), held.end());
  std::vector<Range>& ranges = ranges_[pid];
  std::vector<Range> merged;
  size_t next = 0;
  for (const uint64_t va : held) {
    while (next < ranges.size() && ranges[next].end <= va) merged.push_back(ranges[next++]);
    if (next < ranges.size() && ranges[next].start <= va) continue;
    if (!merged.empty() && merged.back().end == va && merged.back().segment == segment) {
      merged.back().end += kPage;
    } else {
      merged.push_back({va, va + kPage, segment});
    }
  }
  merged.insert(merged.end(), ranges.begin() + static_cast<ptrdiff_t>(next), ranges.end());
  ranges = std::move(merged);
}

absl::Status Stamps::Add(pid_t pid, Segment segment) {
  AddressSpaces spaces;
  MOULT_RETURN_IF_ERROR(spaces.Add(pid, 0));
  Add(pid, segment, spaces);
  return absl::OkStatus();
}

Segment Stamps::Of(pid_t pid, uint64_t va) const {
  const auto process = ranges_.find(pid);
  if (process == ranges_.end()) return Segment::Exec;
  const std::vector<Range>& ranges = process->second;
  const auto after = std::upper_bound(ranges.begin(), ranges.end(), va,
                                      [](uint64_t at, const Range& range) { return at < range.start; });
  if (after == ranges.begin() || std::prev(after)->end <= va) return Segment::Exec;
  return std::prev(after)->segment;
}

std::string Stamps::Format() const {
  std::string text;
  for (const auto& [pid, ranges] : ranges_) {
    for (const Range& range : ranges) {
      absl::StrAppend(&text, pid, " ", static_cast<int>(range.segment), " ", absl::Hex(range.start), " ",
                      absl::Hex(range.end), "\n");
    }
  }
  return text;
}

absl::StatusOr<Stamps> Stamps::Parse(std::string_view text) {
  Stamps stamps;
  for (const absl::string_view line : absl::StrSplit(proc::ToAbsl(text), '\n', absl::SkipEmpty())) {
    const std::vector<absl::string_view> fields = absl::StrSplit(line, ' ');
    int pid = 0, segment = 0;
    uint64_t start = 0, end = 0;
    if (fields.size() != kFields || !absl::SimpleAtoi(fields[0], &pid) || pid <= 0 ||
        !absl::SimpleAtoi(fields[1], &segment) || segment < static_cast<int>(Segment::Runtime) ||
        segment > static_cast<int>(Segment::Exec) || !absl::SimpleHexAtoi(fields[2], &start) ||
        !absl::SimpleHexAtoi(fields[3], &end) || start >= end)
      return Damaged(line);
    std::vector<Range>& ranges = stamps.ranges_[pid];
    if (!ranges.empty() && ranges.back().end > start) return Damaged(line);
    ranges.push_back({start, end, static_cast<Segment>(segment)});
  }
  return stamps;
}

absl::StatusOr<Stamps> Stamps::Read(const std::string& folder) {
  const auto text = proc::ReadFile(folder + kName);
  if (absl::IsNotFound(text.status())) return Stamps();
  MOULT_RETURN_IF_ERROR(text.status());
  absl::StatusOr<Stamps> stamps = Parse(*text);
  if (!stamps.ok()) return Annotate(stamps.status(), folder + kName);
  return stamps;
}

absl::Status Stamps::Save(const std::string& folder) const { return WriteWhole(folder + kName, Format()); }

}  // namespace moult::agent
