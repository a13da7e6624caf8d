// SPDX-License-Identifier: Apache-2.0
#include "replay/report.h"

#include "absl/strings/str_format.h"

namespace moult::bench {
namespace {

using nlohmann::ordered_json;

constexpr double kGb = 1e9;
constexpr char kMethod[] =
    "memory: guest memory on the host over virtual time, of functions that are there; GB are 1e9 bytes; "
    "offloaded: the same in the pool, which is memory too unless it is a disk's; "
    "saved: 1 - mean memory / that of the fixed keep-alive in this run; "
    "latency: what an invocation waited before it ran: for a start, a thaw, a recall, or the rest of one; "
    "percentiles are too high by at most 1 %; recalled: invocations that began a recall or waited for one";

double Seconds(const ReplayResult& result) { return static_cast<double>(result.length.count()) / 1e6; }

double MeanGb(const Level& level, const ReplayResult& result) {
  return Seconds(result) > 0 ? level.ByteSeconds() / Seconds(result) / kGb : 0;
}

double Share(uint64_t part, uint64_t all) {
  return all > 0 ? static_cast<double>(part) / static_cast<double>(all) : 0;
}

const ReplayResult* Fixed(const std::vector<NamedResult>& results) {
  for (const NamedResult& named : results) {
    if (named.name == "fixed" || named.name.starts_with("fixed:")) return &named.result;
  }
  return nullptr;
}

// Null where there is nothing to compare with.
ordered_json Saved(const ReplayResult& result, const ReplayResult* fixed) {
  if (fixed == nullptr || fixed->resident.ByteSeconds() <= 0) return nullptr;
  return 1 - result.resident.ByteSeconds() / fixed->resident.ByteSeconds();
}

ordered_json LatencyJson(const Latencies& latency) {
  const auto percentile = [&](double p) { return static_cast<double>(latency.Percentile(p)) / 1000; };
  return {{"mean", latency.Mean() / 1000},
          {"p50", percentile(0.5)},
          {"p95", percentile(0.95)},
          {"p99", percentile(0.99)},
          {"max", static_cast<double>(latency.Largest()) / 1000}};
}

ordered_json CostJson(const CostModel& cost) {
  const auto ms = [](Micros micros) { return static_cast<double>(micros.count()) / 1000; };
  return {{"cold_start_ms", ms(cost.cold_start)},
          {"attach_ms", ms(cost.attach)},
          {"restart", cost.restart_by_attach ? "attach" : "cold"},
          {"thaw_ms", ms(cost.thaw)},
          {"fault_us", cost.fault.count()},
          {"offload_mib_s", cost.offload_mib_s},
          {"prefetch_mib_s", cost.prefetch_mib_s},
          {"prefetch_miss", cost.prefetch_miss},
          {"touch", cost.touch.values},
          {"husk_mib", static_cast<double>(cost.husk_bytes) / (1 << 20)},
          {"host_gb", static_cast<double>(cost.host_bytes) / kGb}};
}

ordered_json ResultJson(const NamedResult& named, const ReplayResult* fixed) {
  const ReplayResult& r = named.result;
  return {{"policy", named.name},
          {"memory_gb",
           {{"mean", MeanGb(r.resident, r)}, {"peak", static_cast<double>(r.resident.peak()) / kGb}}},
          {"memory_gb_hours", r.resident.ByteSeconds() / kGb / 3600},
          {"offloaded_gb",
           {{"mean", MeanGb(r.offloaded, r)}, {"peak", static_cast<double>(r.offloaded.peak()) / kGb}}},
          {"saved", Saved(r, fixed)},
          {"latency_ms", LatencyJson(r.latency)},
          {"cold_starts", r.cold_starts},
          {"cold_start_share", Share(r.cold_starts, r.invocations)},
          {"recalled_share", Share(r.recalled, r.invocations)},
          {"ends", r.ends},
          {"moved_gb",
           {{"out", static_cast<double>(r.offload_bytes) / kGb},
            {"back", static_cast<double>(r.recall_bytes) / kGb}}}};
}

void AppendRow(std::string& text, const NamedResult& named, const ReplayResult* fixed) {
  const ReplayResult& r = named.result;
  const ordered_json saved = Saved(r, fixed);
  absl::StrAppendFormat(&text, "%9.3f %9.3f %11.2f %7s %9.3f  ", MeanGb(r.resident, r),
                        static_cast<double>(r.resident.peak()) / kGb, r.resident.ByteSeconds() / kGb / 3600,
                        saved.is_null() ? "-" : absl::StrFormat("%.1f%%", 100 * saved.get<double>()),
                        MeanGb(r.offloaded, r));
  const ordered_json latency = LatencyJson(r.latency);
  for (const auto& [name, value] : latency.items()) {
    absl::StrAppendFormat(&text, "%9.1f ", value.get<double>());
  }
  absl::StrAppendFormat(&text, " %9d %6.2f%% %7.2f%%  %s\n", r.cold_starts,
                        100 * Share(r.cold_starts, r.invocations), 100 * Share(r.recalled, r.invocations),
                        named.name);
}

}  // namespace

ordered_json ReplayJson(const std::vector<NamedResult>& results, const CostModel& cost) {
  ordered_json policies = ordered_json::array();
  for (const NamedResult& named : results) policies.push_back(ResultJson(named, Fixed(results)));
  ordered_json trace = nullptr;
  if (!results.empty()) {
    const ReplayResult& any = results.front().result;
    trace = {{"functions", any.functions}, {"invocations", any.invocations}, {"hours", Seconds(any) / 3600}};
  }
  return {{"method", kMethod},
          {"trace", std::move(trace)},
          {"costs", CostJson(cost)},
          {"policies", std::move(policies)}};
}

std::string ReplayText(const std::vector<NamedResult>& results, const CostModel& cost) {
  std::string text;
  if (results.empty()) return text;
  const ReplayResult& any = results.front().result;
  absl::StrAppendFormat(&text, "%d functions, %d invocations, %.2f hours\ncosts:", any.functions,
                        any.invocations, Seconds(any) / 3600);
  const ordered_json costs = CostJson(cost);
  for (const auto& [name, value] : costs.items()) {
    absl::StrAppend(&text, " ", name, " ", value.is_string() ? value.get<std::string>() : value.dump());
  }
  absl::StrAppendFormat(&text, "\n\n%37s %17s  %49s  %9s %15s\n", "memory, GB", "offloaded",
                        "added latency, ms", "cold", "recalled");
  absl::StrAppendFormat(&text, "%9s %9s %11s %7s %9s  %9s %9s %9s %9s %9s  %9s %7s %8s  policy\n", "mean",
                        "peak", "GB-hours", "saved", "mean, GB", "mean", "p50", "p95", "p99", "max", "starts",
                        "share", "share");
  for (const NamedResult& named : results) AppendRow(text, named, Fixed(results));
  absl::StrAppend(&text, "\nhow: ", kMethod, "\n");
  return text;
}

}  // namespace moult::bench
