// SPDX-License-Identifier: Apache-2.0
#include "ledger/page_ledger.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <sstream>

#include "ledger.h"

#include "json_file.h"
#include "ledger/accesses.h"
#include "ledger/census.h"
#include "moult/base/page.h"
#include "moult/base/unique_fd.h"
#include "pager.h"
#include "proc/maps.h"
#include "proc/read.h"
#include "rpc/iomem.h"

namespace moult::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr char kMethod[] =
    "GB of RAM a second; ratio: median over the rounds of how many times the peer's time ours is. ours: a report of all of RAM, as the agent "
    "makes it, up to where it is sent. the peer reads /proc/kpageflags, kpagecount and kpagecgroup of all of RAM, of every process maps, "
    "and pagemap of all of its mappings that have pages (which ones it is told beforehand), in pieces as large as ours, and looks at none of it. forget: to clear which pages one function's processes have touched, as each thaw does; "
    "the peer reads the pagemap of their mappings that have pages";
constexpr size_t kEntries = 32768;  // of eight bytes, at a time
constexpr double kForgetGoal = 1;   // no slower than to read of the same pages where they are

// Where agents have their functions, or else the mount.
absl::StatusOr<std::string> FunctionsCgroup() {
  MOULT_ASSIGN_OR_RETURN(const std::string mounts, proc::ReadFile("/proc/self/mounts"));
  std::istringstream lines(mounts);
  for (std::string device, place, kind, rest; lines >> device >> place >> kind && std::getline(lines, rest);) {
    if (kind != "cgroup2") continue;
    const std::string agents = place + "/moult";
    return std::filesystem::exists(agents) ? agents : place;
  }
  return absl::FailedPreconditionError("no cgroup v2 is mounted; mount one, and name it with --cgroup");
}

std::vector<pid_t> Processes() {
  std::vector<pid_t> pids;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename();
    pid_t pid = 0;
    const auto [end, wrong] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (wrong == std::errc() && end == name.data() + name.size()) pids.push_back(pid);
  }
  return pids;
}

// What the ledger reads, without what it makes of it.
class Peer {
 public:
  static absl::StatusOr<Peer> Prepare() {
    Peer peer;
    peer.ram_ = agent::ReadSystemRam();
    if (peer.ram_.empty()) return absl::FailedPreconditionError("/proc/iomem shows no RAM; run as root (CAP_SYS_ADMIN)");
    for (const char* name : {"kpageflags", "kpagecount", "kpagecgroup"}) {
      const std::string path = absl::StrCat("/proc/", name);
      UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
      if (fd.valid()) peer.files_.push_back(std::move(fd));
    }
    if (peer.files_.size() < 2) return absl::FailedPreconditionError("this kernel has no /proc/kpageflags and kpagecount");
    peer.buffer_.resize(kEntries);
    return peer;
  }

  uint64_t ram_bytes() const {
    uint64_t bytes = 0;
    for (const agent::RamRange& range : ram_) bytes += range.end - range.start;
    return bytes;
  }

  // Processes come and go: anew before each round.
  void FindMappings(const std::vector<pid_t>& pids) {
    mapped_.clear();
    for (const pid_t pid : pids) {
      const auto text = proc::ReadFile(absl::StrCat("/proc/", pid, "/smaps"));
      if (!text.ok()) continue;
      const auto smaps = proc::ParseSmaps(*text);
      if (!smaps.ok() || smaps->empty()) continue;
      Mapped& mapped = mapped_.emplace_back(Mapped{pid, {}});
      for (const proc::SmapsEntry& entry : *smaps) {
        if (entry.rss != 0 && entry.path != "[vsyscall]") mapped.parts.emplace_back(entry.start, entry.end);
      }
    }
  }

  absl::Status Read() {
    for (const agent::RamRange& range : ram_) {
      for (uint64_t at = range.start / kPage; at < range.end / kPage; at += kEntries) {
        const size_t count = std::min<uint64_t>(kEntries, range.end / kPage - at);
        for (const UniqueFd& file : files_) {
          if (pread(file.get(), buffer_.data(), count * 8, static_cast<off_t>(at * 8)) < 0) return ErrnoStatus("read /proc/kpage*");
        }
      }
    }
    for (const Mapped& mapped : mapped_) (void)proc::ReadFile(absl::StrCat("/proc/", mapped.pid, "/maps"));  // it may have gone
    ReadPagemaps();
    return absl::OkStatus();
  }

  void ReadPagemaps() {
    for (const Mapped& mapped : mapped_) {
      const UniqueFd pagemap(open(absl::StrCat("/proc/", mapped.pid, "/pagemap").c_str(), O_RDONLY | O_CLOEXEC));
      for (const auto& [start, end] : mapped.parts) {
        for (uint64_t at = start; pagemap.valid() && at < end; at += kEntries * kPage) {
          const size_t count = std::min<uint64_t>(kEntries, (end - at) / kPage);
          if (pread(pagemap.get(), buffer_.data(), count * 8, static_cast<off_t>(at / kPage * 8)) <= 0) break;
        }
      }
    }
  }

 private:
  struct Mapped {
    pid_t pid;
    std::vector<std::pair<uint64_t, uint64_t>> parts;
  };
  std::vector<agent::RamRange> ram_;
  std::vector<UniqueFd> files_;
  std::vector<Mapped> mapped_;
  std::vector<uint64_t> buffer_;
};

struct Measured {
  uint64_t ram_bytes = 0;
  size_t runs = 0;
  PagerRow row = {};
  Samples phases = {};
  std::vector<PagerRow> forget = {};  // one a function
};

absl::StatusOr<std::vector<PagerRow>> MeasureForget(const agent::LedgerOptions& options, int rounds, Peer& peer) {
  MOULT_ASSIGN_OR_RETURN(const agent::Census census, agent::TakeCensus(options.cgroup_root, options.functions_dir, 0));
  std::vector<PagerRow> rows;
  for (const agent::Household& function : census.functions) {
    std::vector<pid_t> pids;
    std::string name;
    for (const agent::Resident& process : census.processes) {
      if (!process.user || process.function != function.id) continue;
      pids.push_back(process.pid);
      if (name.empty()) name = process.comm;
    }
    if (pids.empty()) continue;
    peer.FindMappings(pids);
    PagerRow& row = rows.emplace_back(PagerRow{.name = absl::StrCat("forget, ", name), .peer = "reading its pagemap", .unit = "us", .goal = kForgetGoal});
    for (int round = 0; round < rounds; ++round) {
      Clock::time_point begin = Clock::now();
      peer.ReadPagemaps();
      row.theirs.push_back(std::chrono::duration<double, std::micro>(Clock::now() - begin).count());
      begin = Clock::now();
      const agent::Accesses accesses;  // opens the driver, as the agent does each time
      for (const pid_t pid : pids) MOULT_RETURN_IF_ERROR(accesses.Forget(pid));
      row.ours.push_back(std::chrono::duration<double, std::micro>(Clock::now() - begin).count());
    }
  }
  return rows;
}

absl::StatusOr<Measured> Measure(const LedgerArguments& arguments) {
  agent::LedgerOptions options;
  options.cgroup_root = arguments.cgroup;
  if (options.cgroup_root.empty()) {
    MOULT_ASSIGN_OR_RETURN(options.cgroup_root, FunctionsCgroup());
  }
  options.functions_dir = arguments.state + "/functions";
  MOULT_ASSIGN_OR_RETURN(Peer peer, Peer::Prepare());
  Measured measured{.ram_bytes = peer.ram_bytes(), .row = {.name = "all of RAM", .peer = "reading /proc", .unit = "GB/s", .goal = 2, .rate = true}};
  const auto rate = [&](Clock::time_point begin) {
    return static_cast<double>(measured.ram_bytes) / 1e9 / std::chrono::duration<double>(Clock::now() - begin).count();
  };
  for (int round = 0; round < arguments.rounds; ++round) {
    peer.FindMappings(Processes());
    Clock::time_point begin = Clock::now();
    MOULT_RETURN_IF_ERROR(peer.Read());
    measured.row.theirs.push_back(rate(begin));
    engine::Phases phases;
    begin = Clock::now();
    MOULT_ASSIGN_OR_RETURN(const agent::PageLedger ledger, agent::MakeLedger(options, phases));
    measured.row.ours.push_back(rate(begin));
    measured.runs = ledger.runs.size();
    for (const auto& [name, us] : phases.done()) measured.phases.Add(name, static_cast<double>(us));
  }
  MOULT_ASSIGN_OR_RETURN(measured.forget, MeasureForget(options, arguments.rounds, peer));
  return measured;
}

}  // namespace

int RunLedger(const LedgerArguments& arguments) {
  const absl::StatusOr<Measured> measured = Measure(arguments);
  if (!measured.ok()) {
    std::fprintf(stderr, "moult-bench: ledger: %s\n", std::string(measured.status().message()).c_str());
    return 1;
  }
  std::printf("ledger, medians of %d rounds, %.1f GB of RAM, %zu runs of pages\n", arguments.rounds,
              static_cast<double>(measured->ram_bytes) / 1e9, measured->runs);
  PrintRow(measured->row);
  for (const auto& [name, values] : measured->phases.all()) std::printf("  %-20s %10.0f us\n", name.c_str(), Summarize(values).median);
  nlohmann::ordered_json rows = nlohmann::ordered_json::array({ToJson(measured->row)});
  for (const PagerRow& row : measured->forget) {
    PrintRow(row);
    rows.push_back(ToJson(row));
  }
  return WriteJson(arguments.json, {{"rounds", arguments.rounds},
                                    {"ram_bytes", measured->ram_bytes},
                                    {"runs", measured->runs},
                                    {"method", kMethod},
                                    {"rows", std::move(rows)},
                                    {"phases_us", measured->phases.Json()}});
}

}  // namespace moult::bench
