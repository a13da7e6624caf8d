// SPDX-License-Identifier: Apache-2.0
#include "moult/protocol/page_runs.h"

#include <set>

#include "moult/base/status.h"
#include "validate_internal.h"

namespace moult::rpc {
namespace {

using validate::InRange;
using validate::PageAligned;
using validate::Path;

constexpr uint8_t kProtBits = 7;
constexpr uint64_t kAddresses = uint64_t{1} << 52;  // no CPU has more

absl::Status CheckShape(const Path& at, const PagesReportT& report, const PageRun& run) {
  if (!PageAligned(run.gpa())) return at.BadField("gpa", run.gpa(), " is not page aligned");
  if (run.length() == 0 || !PageAligned(run.length())) return at.BadField("length", run.length(), " is not whole pages");
  if (run.gpa() > kAddresses || run.length() > kAddresses - run.gpa()) return at.BadField("length", run.length(), " goes beyond all addresses");
  if (!PageAligned(run.va()) || run.length() > UINT64_MAX - run.va()) return at.BadField("va", run.va(), " is no place of these pages");
  if (!PageAligned(run.file_offset())) return at.BadField("file_offset", run.file_offset(), " is not page aligned");
  if (run.file() > report.files.size()) return at.BadField("file", run.file(), ", there are ", report.files.size());
  if (!InRange(run.page_class(), PageClass::MAX)) return at.BadField("page_class", static_cast<int>(run.page_class()), " is unknown");
  if (!InRange(run.kind(), PageKind::MAX)) return at.BadField("kind", static_cast<int>(run.kind()), " is unknown");
  if (!InRange(run.segment(), Segment::MAX)) return at.BadField("segment", static_cast<int>(run.segment()), " is unknown");
  if (run.prot() > kProtBits) return at.BadField("prot", static_cast<int>(run.prot()), " is unknown");
  return absl::OkStatus();
}

// The index of the range that has all of [gpa, gpa + length), from `from` on; that of none: the count.
size_t FindRange(const std::vector<GpaRun>& ram, size_t from, const PageRun& run) {
  while (from < ram.size() && ram[from].gpa() + ram[from].length() <= run.gpa()) ++from;
  const bool inside = from < ram.size() && ram[from].gpa() <= run.gpa() &&
                      run.length() <= ram[from].length() - (run.gpa() - ram[from].gpa());
  return inside ? from : ram.size();
}

}  // namespace

absl::Status CheckPageRuns(const PagesReportT& report, absl::Span<const PageRun> runs) {
  const Path top("pages");
  // 0 names none.
  std::set<uint64_t> functions = {0};
  for (const auto& function : report.functions) functions.insert(function->id);
  std::set<uint32_t> pids = {0};
  for (const auto& process : report.processes) pids.insert(process->pid);
  uint64_t least = 0;
  uint64_t in_ram = 0;
  size_t range = 0;
  bool windows = false;
  for (size_t i = 0; i < runs.size(); ++i) {
    const PageRun& run = runs[i];
    const Path at(top, "runs", i);
    MOULT_RETURN_IF_ERROR(CheckShape(at, report, run));
    if (!functions.contains(run.function())) return at.BadField("function", run.function(), " is not among the report's");
    if (!pids.contains(run.pid())) return at.BadField("pid", run.pid(), " is not among the report's");
    const bool is_template = run.page_class() == PageClass::Template;
    if (windows && !is_template) return at.BadField("page_class", "pages of RAM come before those of windows");
    if (!windows && is_template) least = 0;
    windows = is_template;
    if (run.gpa() < least) return at.BadField("gpa", run.gpa(), " is not rising");
    // A template's page may be shown at several places.
    least = is_template ? run.gpa() : run.gpa() + run.length();
    if (is_template) continue;
    in_ram += run.length();
    if (report.ram.empty()) continue;
    range = FindRange(report.ram, range, run);
    if (range == report.ram.size()) return at.BadField("gpa", run.gpa(), " is not in what was looked at");
  }
  uint64_t ram = 0;
  for (const GpaRun& one : report.ram) ram += one.length();
  if (!report.ram.empty() && in_ram != ram) {
    return top.BadField("runs", in_ram, " bytes of RAM are told of, ", ram, " were looked at");
  }
  return absl::OkStatus();
}

}  // namespace moult::rpc
