// SPDX-License-Identifier: Apache-2.0
#include "top.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "ledger_view.h"
#include "output.h"

namespace moult::ctl {
namespace {

std::string RateText(const std::optional<double>& rate) {
  return rate ? absl::StrFormat("%.1f", *rate) : "-";
}

std::string SegmentText(const std::optional<SegmentPages>& segment) { return segment ? Bytes(segment->bytes) : "-"; }

Json SegmentsJson(const Segments& segments) {
  Json json = Json::object();
  for (size_t i = 0; i < segments.size(); ++i) {
    Json& one = json[kSegments[i]];
    if (segments[i]) one = {{"bytes", segments[i]->bytes}, {"offloaded_bytes", segments[i]->offloaded}};
  }
  return json;
}

}  // namespace

std::string FunctionName(const Json& function) {
  const std::string name = Text(Member(function, "spec"), "name");
  return name.empty() ? Text(function, "name") : name;
}

std::optional<uint64_t> UserBytes(const Json& function) {
  const auto anonymous = Whole(function, "anon_bytes"), shared = Whole(function, "shmem_bytes");
  if (!anonymous && !shared) return std::nullopt;
  return anonymous.value_or(0) + shared.value_or(0);
}

std::optional<uint64_t> ResidentBytes(const Json& function) {
  const auto memory = Whole(function, "memory_bytes");
  if (!memory) return std::nullopt;
  // Of pages that the guest has freed since, some may count as out still.
  return *memory - std::min(*memory, Whole(function, "offloaded_bytes").value_or(0));
}

absl::StatusOr<std::vector<Load>> ParseLoads(const Json& result) {
  const Json& functions = Member(result, "functions");
  if (!functions.is_array()) return absl::DataLossError("ps: the answer has no list of functions");
  std::vector<Load> loads;
  for (const Json& f : functions) {
    const std::string state = Text(f, "state");
    // Of one that has ended there may be room in the pool that is not given back yet.
    if (absl::AsciiStrToLower(state) == "ended" && Whole(f, "offloaded_bytes").value_or(0) == 0) continue;
    loads.push_back({.id = Number(f, "id"),
                     .name = FunctionName(f),
                     .state = state,
                     .user_bytes = UserBytes(f),
                     .resident_bytes = ResidentBytes(f),
                     .offloaded_bytes = Whole(f, "offloaded_bytes"),
                     .template_bytes = {},
                     .faults = Whole(f, "faults"),
                     .recalls = Whole(f, "recall_faults"),
                     .fault_rate = {},
                     .recall_rate = {},
                     .segments = {}});
  }
  return loads;
}

std::optional<double> Rate(std::optional<uint64_t> before, std::optional<uint64_t> now, double seconds) {
  if (!before || !now || *now < *before || !(seconds > 0)) return std::nullopt;
  return static_cast<double>(*now - *before) / seconds;
}

std::vector<Load> WithRates(const std::vector<Load>& before, std::vector<Load> now, double seconds) {
  for (Load& load : now) {
    const auto same = [&](const Load& other) { return other.id == load.id && other.name == load.name; };
    const auto earlier = std::find_if(before.begin(), before.end(), same);
    if (earlier == before.end()) continue;
    load.fault_rate = Rate(earlier->faults, load.faults, seconds);
    load.recall_rate = Rate(earlier->recalls, load.recalls, seconds);
  }
  // An unknown size, nullopt, is the least of all.
  std::stable_sort(now.begin(), now.end(), [](const Load& a, const Load& b) {
    return a.user_bytes != b.user_bytes ? a.user_bytes > b.user_bytes : a.id < b.id;
  });
  return now;
}

void AddPages(const Ledger& ledger, std::vector<Load>* loads) {
  for (Load& load : *loads) {
    const auto same = [&](const FunctionPages& pages) { return pages.id == load.id && pages.name == load.name; };
    const auto pages = std::find_if(ledger.functions.begin(), ledger.functions.end(), same);
    if (pages == ledger.functions.end()) continue;
    load.segments = pages->segments;
    load.template_bytes = pages->template_bytes;
  }
}

std::string TopText(const std::vector<Load>& loads, size_t max_lines) {
  std::vector<std::vector<std::string>> rows{
      {"ID", "NAME", "STATE", "USER", "RESIDENT", "OFFLOADED", "TEMPLATE", "RUNTIME", "INIT", "EXEC", "FAULTS/S", "RECALLS/S"}};
  for (const Load& load : loads) {
    if (rows.size() >= max_lines) break;
    rows.push_back({absl::StrCat(load.id), load.name, load.state, BytesOrNone(load.user_bytes),
                    BytesOrNone(load.resident_bytes), BytesOrNone(load.offloaded_bytes),
                    BytesOrNone(load.template_bytes), SegmentText(load.segments[0]), SegmentText(load.segments[1]),
                    SegmentText(load.segments[2]), RateText(load.fault_rate), RateText(load.recall_rate)});
  }
  return Table(rows, {0, 3, 4, 5, 6, 7, 8, 9, 10, 11});
}

Json TopJson(const std::vector<Load>& loads) {
  Json functions = Json::array();
  for (const Load& load : loads) {
    functions.push_back({{"id", load.id},
                         {"name", load.name},
                         {"state", load.state},
                         {"user_bytes", OrNull(load.user_bytes)},
                         {"resident_bytes", OrNull(load.resident_bytes)},
                         {"offloaded_bytes", OrNull(load.offloaded_bytes)},
                         {"template_bytes", OrNull(load.template_bytes)},
                         {"segments", SegmentsJson(load.segments)},
                         {"faults_per_second", OrNull(load.fault_rate)},
                         {"recalls_per_second", OrNull(load.recall_rate)}});
  }
  return {{"functions", std::move(functions)}};
}

}  // namespace moult::ctl
