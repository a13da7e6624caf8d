// SPDX-License-Identifier: Apache-2.0
#include "report.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_format.h"

namespace moult::bench {
namespace {

std::string Triple(const Summary& micros) {
  return absl::StrFormat("%.2f/%.2f/%.2f", micros.min / 1000, micros.median / 1000, micros.max / 1000);
}
double Ratio(double value, double base) { return base > 0 ? value / base : 0; }
double Mib(uint64_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

void PrintPhases(const char* what, const Samples& phases) {
  std::string line = absl::StrFormat("    %-8s", what);
  for (const auto& [name, values] : phases.all())
    absl::StrAppendFormat(&line, " %s %.0f;", name, Summarize(values).median);
  if (line.back() == ';') line.pop_back();
  std::printf("%s\n", line.c_str());
}

nlohmann::ordered_json RatiosJson(const Measurement& m) {
  return {{"stopped_to_copy_readv", Ratio(m.dump.Median(kStopped), m.floor.Median(kCopy))},
          {"stopped_to_copy_memcpy", Ratio(m.dump.Median(kStopped), m.floor.Median(kMemcpy))},
          {"stopped_to_bare_copy_stop_and_look", Ratio(m.dump.Median(kStopped), m.floor.Median(kBare))},
          {"restore_rest_to_floor", Ratio(m.restore.Median(kRest), m.floor.Median(kRestFloor))},
          {"restore_total_to_floor_with_fill",
           Ratio(m.restore.Median(kTotal), m.floor.Median(kRestFloor) + m.floor.Median(kFill))}};
}

nlohmann::ordered_json SubjectJson(const Measurement& m) {
  nlohmann::ordered_json json{{"name", m.subject.name},
                              {"kind", m.subject.series.empty() ? "program" : "victim"}};
  if (!m.subject.series.empty()) json["series"] = m.subject.series;
  if (!m.status.ok()) {
    json[absl::IsUnavailable(m.status) ? "skipped" : "failed"] = std::string(m.status.message());
    return json;
  }
  json.update({{"threads", m.threads},
               {"vmas", m.vmas},
               {"fds", m.fds},
               {"private_bytes", m.private_bytes},
               {"user_state_bytes", m.user_state_bytes}});
  json["dump_us"] = m.dump.Json();
  json["dump_phases_us"] = m.dump_phases.Json();
  json["restore_us"] = m.restore.Json();
  json["restore_phases_us"] = m.restore_phases.Json();
  json["floor_us"] = m.floor.Json();
  json["ratios"] = RatiosJson(m);
  return json;
}

nlohmann::ordered_json MachineJson() {
  utsname name{};
  uname(&name);
  double load[1] = {0};
  getloadavg(load, 1);
  return {
      {"kernel", name.release}, {"cpus", sysconf(_SC_NPROCESSORS_ONLN)}, {"load_average_at_end", load[0]}};
}

}  // namespace

const std::vector<std::string>& Method() {
  static const std::vector<std::string> method{
      "All times are the medians of the rounds; min/median/max where three are given. Tool and floor run in "
      "turns.",
      "Dump rounds use --leave-running on one process; restore rounds make it from one template, whose pages "
      "are in the page cache.",
      "copy (floor): process_vm_readv of RssAnon + RssShmem + VmSwap bytes from a stopped child on 4 KiB "
      "pages into prefaulted 2 MiB pages, after 64 MiB of other memory went through the cache.",
      "excess: stopped less copy, round by round. memcpy (floor) is the same copy within one process, by the C "
      "library.",
      "stop (floor): each thread of a child is seized, interrupted and waited for, its registers are read, and it is let go. look "
      "(floor): each descriptor of a child is duplicated and its fdinfo read. No capture by ptrace and /proc takes less.",
      "content: phases \"verify pages\" and \"fill pages\" of the tool; the new process itself notes the "
      "time when it begins and ends to read pages. fill (floor) is preadv of the same runs of the same page file "
      "into bare mappings.",
      "rest (restore without page content): total less content, round by round. Its floor: mmap of each of the "
      "process's mappings, of the same length, protection and file (opened before), and mprotect of those that are "
      "not writable and have content; as many eventfds made, put at their numbers and closed as descriptors; clone3 "
      "of as many threads less one until each has run and parks; and one fork with exit.",
      "A goal is met or missed only by more than the noise: how far the medians are above the smallest "
      "rounds, "
      "of all that the value is a difference of; else it is unclear.",
      "Phases are named by the tool, in us. wall is from the spawn of the tool to its exit, exec and exit "
      "among it."};
  return method;
}

void PrintHeader(int rounds) {
  std::printf("%d rounds; ms as min/median/max\n\n", rounds);
  std::printf("%-12s %5s %5s %5s %8s | %-20s %8s %6s %7s | %-20s %8s %8s %8s %6s\n", "subject", "thr", "vmas",
              "fds", "MiB", "stopped", "copy", "ratio", "excess", "restore", "content", "rest", "floor",
              "ratio");
}

void PrintRow(const Measurement& m) {
  if (!m.status.ok()) {
    std::printf("%-12s %s: %s\n", m.subject.name.c_str(),
                absl::IsUnavailable(m.status) ? "skipped" : "FAILED",
                std::string(m.status.message()).c_str());
    std::fflush(stdout);
    return;
  }
  const double copy = m.floor.Median(kCopy);
  const double rest_floor = m.floor.Median(kRestFloor);
  std::printf("%-12s %5ld %5ld %5ld %8.1f | %-20s %8.2f %6.2f %7.2f | %-20s %8.2f %8.2f %8.2f %6.2f\n",
              m.subject.name.c_str(), m.threads, m.vmas, m.fds, Mib(m.private_bytes),
              Triple(m.dump.Get(kStopped)).c_str(), copy / 1000, Ratio(m.dump.Median(kStopped), copy),
              m.dump.Median(kExcess) / 1000, Triple(m.restore.Get(kTotal)).c_str(),
              m.restore.Median(kContent) / 1000, m.restore.Median(kRest) / 1000, rest_floor / 1000,
              Ratio(m.restore.Median(kRest), rest_floor));
  std::fflush(stdout);
}

void PrintSummary(const std::vector<Measurement>& measurements) {
  std::printf("\nphases [us], and the floor\n");
  for (const Measurement& m : measurements) {
    if (!m.status.ok()) continue;
    std::printf(
        "  %s: dump %.2f ms in all, %.2f ms with the tool's start and end; restore %.2f and %.2f ms\n",
        m.subject.name.c_str(), m.dump.Median(kTotal) / 1000, m.dump.Median(kWall) / 1000,
        m.restore.Median(kTotal) / 1000, m.restore.Median(kWall) / 1000);
    PrintPhases("dump", m.dump_phases);
    PrintPhases("restore", m.restore_phases);
    PrintPhases("floor", m.floor);
    std::printf("    stopped  %.2f times the bare copy, stop and look\n", Ratio(m.dump.Median(kStopped), m.floor.Median(kBare)));
  }
  std::printf("\ngrowth\n");
  for (const Growth& growth : GrowthOf(measurements)) {
    std::printf("  one more %s (%zu sizes)\n", growth.unit.c_str(), growth.points);
    for (const auto& [name, line] : growth.lines) {
      const bool pages = growth.series == "pages";
      std::printf("    %-30s %9.2f %s, from %.2f ms\n", name.c_str(), pages ? line.slope * 1000 : line.slope,
                  pages ? "ns" : "us", line.at_zero / 1000);
    }
  }
  std::printf("\ngoals\n");
  for (const Measurement& m : measurements) {
    for (const Goal& goal : GoalsOf(m)) {
      std::printf("  %-7s %-12s %-42s %8.2f +- %.2f, at most %.0f\n", goal.Verdict(), goal.subject.c_str(),
                  goal.text.c_str(), goal.value, goal.noise, goal.limit);
    }
  }
  std::printf("\nhow\n");
  for (const std::string& line : Method()) std::printf("  - %s\n", line.c_str());
}

nlohmann::ordered_json ReportJson(const std::vector<Measurement>& measurements, int rounds) {
  nlohmann::ordered_json json{{"rounds", rounds}, {"machine", MachineJson()}, {"method", Method()}};
  json["subjects"] = nlohmann::ordered_json::array();
  json["goals"] = nlohmann::ordered_json::array();
  for (const Measurement& m : measurements) {
    json["subjects"].push_back(SubjectJson(m));
    for (const Goal& goal : GoalsOf(m)) {
      json["goals"].push_back({{"subject", goal.subject},
                               {"goal", goal.text},
                               {"value", goal.value},
                               {"at_most", goal.limit},
                               {"noise", goal.noise},
                               {"verdict", goal.Verdict()}});
    }
  }
  json["growth"] = nlohmann::ordered_json::array();
  for (const Growth& growth : GrowthOf(measurements)) {
    nlohmann::ordered_json entry{{"series", growth.series}, {"per", growth.unit}, {"sizes", growth.points}};
    for (const auto& [name, line] : growth.lines) {
      const size_t text = name.find_first_not_of(' ');
      entry["us"][name.substr(text)] = {{"each", line.slope}, {"at_zero", line.at_zero}};
    }
    json["growth"].push_back(std::move(entry));
  }
  return json;
}

}  // namespace moult::bench
