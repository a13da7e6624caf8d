// SPDX-License-Identifier: Apache-2.0
#include "ledger/page_ledger.h"

#include <algorithm>
#include <set>
#include <tuple>

#include "image/window.h"
#include "ledger/accesses.h"
#include "ledger/address_space.h"
#include "ledger/census.h"
#include "ledger/classify.h"
#include "ledger/frame_table.h"
#include "ledger/stamps.h"
#include "moult/base/page.h"
#include "proc/read.h"
#include "rpc/iomem.h"

namespace moult::agent {
namespace {

using rpc::PageClass;
using rpc::PageFlag;

constexpr uint64_t kFramesRead = 32768;  // frames looked up at a time
constexpr uint64_t kGap = 256;  // frames that are looked up although nobody asks: a system call costs more

struct Run {
  uint64_t gpa;
  uint64_t length;
  PageUse use;  // of the first page
};

bool Follows(const Run& last, uint64_t gpa, const PageUse& next) {
  const PageUse& use = last.use;
  const bool same = use.page_class == next.page_class && use.kind == next.kind &&
                    use.function == next.function && use.pid == next.pid && use.file == next.file &&
                    use.prot == next.prot && use.segment == next.segment && use.flags == next.flags;
  return same && last.gpa + last.length == gpa && (use.pid == 0 || use.va + last.length == next.va) &&
         (use.file == 0 || use.file_offset + last.length == next.file_offset);
}

void Append(std::vector<Run>& runs, uint64_t frame, const PageUse& use) {
  if (!runs.empty() && Follows(runs.back(), frame * kPage, use)) {
    runs.back().length += kPage;
  } else {
    runs.push_back({frame * kPage, kPage, use});
  }
}

bool IsUser(PageClass page_class) { return page_class <= PageClass::UserFile; }

class Maker {
 public:
  Maker(const LedgerOptions& options, engine::Phases& phases) : options_(options), phases_(phases) {}

  absl::StatusOr<PageLedger> Make() {
    MOULT_RETURN_IF_ERROR(Prepare());
    MOULT_ASSIGN_OR_RETURN(census_,
                           TakeCensus(options_.cgroup_root, options_.functions_dir, options_.function));
    for (const Household& function : census_.functions) {
      MOULT_ASSIGN_OR_RETURN(stamps_[function.id], Stamps::Read(function.folder));
    }
    phases_.End("census");
    MOULT_RETURN_IF_ERROR(ReadSpaces(census_.processes, &spaces_));
    phases_.End("address_spaces");
    if (options_.function == 0) {
      MOULT_RETURN_IF_ERROR(ClassifyRam());
    } else {
      MOULT_RETURN_IF_ERROR(ClassifyMapped());
    }
    AddWindows();
    phases_.End("classify");
    MOULT_RETURN_IF_ERROR(FindExact());
    MarkSamples();
    phases_.End("recheck");
    Describe();
    return std::move(ledger_);
  }

 private:
  absl::Status Prepare() {
    // Part of a page at the end of a range is nobody's.
    for (RamRange range : ReadSystemRam()) {
      range.start = (range.start + kPage - 1) & ~(kPage - 1);
      range.end &= ~(kPage - 1);
      if (range.start < range.end) ram_.push_back(range);
    }
    if (ram_.empty())
      return absl::FailedPreconditionError("/proc/iomem shows no RAM; run as root (CAP_SYS_ADMIN)");
    if (!proc::ReadFile(options_.cgroup_root + "/cgroup.procs").ok()) {
      return absl::FailedPreconditionError(
          absl::StrCat("this agent goes without cgroups (none at ", options_.cgroup_root,
                       "), so it cannot tell which processes are whose; mount cgroup v2 and restart it"));
    }
    const auto iomem = proc::ReadFile("/proc/iomem");
    if (iomem.ok()) kernel_image_ = ParseKernelImage(*iomem);
    if (const auto windows = engine::ListWindows(); windows.ok()) {
      for (const moult_window& window : *windows)
        windows_.push_back({window.gpa, window.gpa + window.length});
    }
    MOULT_ASSIGN_OR_RETURN(frames_, FrameTable::Open());
    return absl::OkStatus();
  }

  absl::Status ReadSpaces(const std::vector<Resident>& processes, AddressSpaces* spaces) const {
    for (size_t i = 0; i < processes.size(); ++i) {
      if (!options_.may_go_on()) return absl::CancelledError("nobody waits for the report any more");
      const Accesses* accesses = processes[i].user ? &accesses_ : nullptr;
      const absl::Status added = spaces->Add(processes[i].pid, static_cast<uint32_t>(i), accesses);
      if (!added.ok() && !absl::IsNotFound(added)) return added;
    }
    spaces->Sort();
    return absl::OkStatus();
  }

  // Of what a function's processes have for themselves.
  PageUse Stamped(PageUse use) const {
    const bool own = use.page_class == PageClass::UserPrivate || use.page_class == PageClass::UserShared;
    if (!own || use.pid == 0) return use;
    if (const auto found = stamps_.find(use.function); found != stamps_.end())
      use.segment = found->second.Of(static_cast<pid_t>(use.pid), use.va);
    return use;
  }

  // The mappings of `frame`; they rise, and so does it from call to call.
  absl::Span<const Mapping> MappingsOf(uint64_t frame) {
    const std::vector<Mapping>& all = spaces_.mappings();
    while (next_mapping_ < all.size() && all[next_mapping_].frame < frame) ++next_mapping_;
    const size_t first = next_mapping_;
    while (next_mapping_ < all.size() && all[next_mapping_].frame == frame) ++next_mapping_;
    return absl::MakeConstSpan(all).subspan(first, next_mapping_ - first);
  }

  absl::Status ClassifyRam() {
    Classifier classifier(census_, spaces_, kernel_image_, KernelMergesPages());
    std::vector<FrameInfo> infos;
    for (const RamRange& range : ram_) {
      ledger_.report.ram.emplace_back(range.start, range.end - range.start);
      for (uint64_t at = range.start / kPage; at < range.end / kPage;) {
        if (!options_.may_go_on()) return absl::CancelledError("nobody waits for the report any more");
        const uint64_t count = std::min(kFramesRead, range.end / kPage - at);
        MOULT_RETURN_IF_ERROR(frames_->Read(at, count, &infos));
        for (uint64_t i = 0; i < count; ++i) {
          Append(runs_, at + i, Stamped(classifier.Classify(at + i, infos[i], MappingsOf(at + i))));
        }
        at += count;
      }
    }
    return absl::OkStatus();
  }

  // Of one function: only frames that it maps are looked up, unless it also has memory that it does not map.
  absl::Status ClassifyMapped() {
    const auto shmem = census_.functions.front().cgroup->SharedMemoryBytes();
    if (!shmem.ok() || *shmem != 0) {
      MOULT_RETURN_IF_ERROR(ClassifyRam());
      ledger_.report.ram.clear();
    } else {
      MOULT_RETURN_IF_ERROR(ClassifySpans());
    }
    std::erase_if(runs_, [&](const Run& run) {
      return !IsUser(run.use.page_class) || run.use.function != options_.function;
    });
    return absl::OkStatus();
  }

  absl::Status ClassifySpans() {
    Classifier classifier(census_, spaces_, kernel_image_, KernelMergesPages());
    const std::vector<Mapping>& all = spaces_.mappings();
    std::vector<FrameInfo> infos;
    for (size_t i = 0; i < all.size();) {
      const uint64_t first = all[i].frame;
      size_t end = i + 1;
      while (end < all.size() && all[end].frame - all[end - 1].frame <= kGap &&
             all[end].frame - first < kFramesRead)
        ++end;
      const uint64_t count = all[end - 1].frame - first + 1;
      i = end;
      if (!InRam(first)) continue;
      MOULT_RETURN_IF_ERROR(frames_->Read(first, count, &infos));
      for (uint64_t at = 0; at < count; ++at) {
        const PageUse use = classifier.Classify(first + at, infos[at], MappingsOf(first + at));
        if (IsUser(use.page_class)) Append(runs_, first + at, Stamped(use));
      }
    }
    return absl::OkStatus();
  }

  bool InRam(uint64_t frame) const { return IsIn(ram_, frame); }
  static bool IsIn(const std::vector<RamRange>& ranges, uint64_t frame) {
    return std::any_of(ranges.begin(), ranges.end(), [at = frame * kPage](const RamRange& range) {
      return at >= range.start && at + kPage <= range.end;
    });
  }

  void AddWindows() {
    if (windows_.empty()) return;
    const Classifier classifier(census_, spaces_, kernel_image_, false);
    for (const Mapping& mapping : spaces_.mappings()) {
      if (!IsIn(windows_, mapping.frame)) continue;
      const PageUse use = classifier.OfWindow(mapping);
      if (options_.function == 0 || use.function == options_.function) Append(runs_, mapping.frame, use);
    }
  }

  // What the processes of `function` map.
  using Shown = std::vector<std::tuple<uint32_t, uint64_t, uint64_t>>;  // process, address, frame
  static Shown ShownBy(const AddressSpaces& spaces, const std::set<uint32_t>& processes) {
    Shown shown;
    for (const Mapping& mapping : spaces.mappings()) {
      const uint32_t process = spaces.vmas()[mapping.vma].process;
      if (processes.contains(process)) shown.emplace_back(process, mapping.va, mapping.frame);
    }
    std::sort(shown.begin(), shown.end());
    return shown;
  }

  // A process that stands still changes nothing, but the kernel may move its pages: so it is looked at again.
  absl::Status FindExact() {
    std::vector<Resident> still = census_.processes;
    for (Resident& process : still) {
      const auto owner = std::find_if(census_.functions.begin(), census_.functions.end(),
                                      [&](const Household& one) { return one.id == process.function; });
      const bool frozen = process.user && owner != census_.functions.end() && owner->frozen;
      if (!frozen) process.pid = 0;
    }
    AddressSpaces again;
    std::map<uint64_t, std::set<uint32_t>> by_function;
    for (size_t i = 0; i < still.size(); ++i) {
      if (still[i].pid == 0) continue;
      by_function[still[i].function].insert(static_cast<uint32_t>(i));
      const absl::Status added = again.Add(still[i].pid, static_cast<uint32_t>(i));
      if (!added.ok() && !absl::IsNotFound(added)) return added;
    }
    for (const Household& function : census_.functions) {
      if (!function.frozen || !function.cgroup->IsFrozen()) continue;
      const std::set<uint32_t>& processes = by_function[function.id];
      if (ShownBy(spaces_, processes) == ShownBy(again, processes)) exact_.insert(function.id);
    }
    return absl::OkStatus();
  }

  void MarkSamples() {
    for (Run& run : runs_) {
      const bool user = IsUser(run.use.page_class) || run.use.page_class == PageClass::Template;
      if (!user || !exact_.contains(run.use.function)) run.use.flags |= PageFlag::Sample;
    }
  }

  // Only what runs name is sent along.
  void Describe() {
    rpc::PagesReportT& report = ledger_.report;
    std::set<uint32_t> pids;
    std::vector<uint32_t> numbers(spaces_.files().size() + 1);
    for (const auto& [gpa, length, use] : runs_) {
      if (use.pid != 0) pids.insert(use.pid);
      uint32_t& number = numbers[use.file];
      if (use.file != 0 && number == 0) {
        report.files.push_back(spaces_.files()[use.file - 1]);
        number = static_cast<uint32_t>(report.files.size());
      }
      ledger_.runs.emplace_back(gpa, length, use.va, use.file_offset, use.function, use.pid, number,
                                use.page_class, use.kind, use.prot, use.segment, use.flags);
    }
    for (const Resident& process : census_.processes) {
      if (!pids.contains(static_cast<uint32_t>(process.pid))) continue;
      auto& to = report.processes.emplace_back(std::make_unique<rpc::PagesProcessT>());
      to->pid = static_cast<uint32_t>(process.pid);
      to->comm = process.comm;
      to->function = process.function;
    }
    for (const Household& function : census_.functions) {
      auto& to = report.functions.emplace_back(std::make_unique<rpc::PagesFunctionT>());
      to->id = function.id;
      to->exact = exact_.contains(function.id);
      to->access = accesses_.source();
    }
    report.run_count = ledger_.runs.size();
  }

  const LedgerOptions& options_;
  engine::Phases& phases_;
  std::vector<RamRange> ram_;
  std::vector<RamRange> kernel_image_;
  std::vector<RamRange> windows_;
  absl::StatusOr<FrameTable> frames_ = absl::UnavailableError("not opened");
  Census census_;
  const Accesses accesses_;
  AddressSpaces spaces_;
  size_t next_mapping_ = 0;
  std::vector<Run> runs_;
  std::set<uint64_t> exact_;
  std::map<uint64_t, Stamps> stamps_;  // by function
  PageLedger ledger_;
};

}  // namespace

absl::StatusOr<PageLedger> MakeLedger(const LedgerOptions& options, engine::Phases& phases) {
  return Maker(options, phases).Make();
}

}  // namespace moult::agent
