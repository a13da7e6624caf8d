// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "json_file.h"
#include "pools.h"

namespace moult::bench {
namespace {

// Of two ways measured in turns: the median of the rounds' ratios.
double Ratio(const PoolWay& way, const PoolWay& peer, const char* what) {
  const std::vector<double> ours = way.samples.Values(what);
  const std::vector<double> theirs = peer.samples.Values(what);
  std::vector<double> ratios;
  for (size_t i = 0; i < ours.size() && i < theirs.size(); ++i) ratios.push_back(ours[i] / theirs[i]);
  return Summarize(std::move(ratios)).median;
}

nlohmann::ordered_json WayJson(const PoolWay& way, const PoolWay& peer) {
  const auto median = [&](const char* what) { return way.samples.Median(what); };
  return {{"pool", way.pool},
          {"mode", way.mode},
          {"first_answer_us", ToJson(way.samples.Get("first_answer"))},
          {"working_set_us", ToJson(way.samples.Get("working_set"))},
          {"all_pages_us", ToJson(way.samples.Get("all_pages"))},
          {"of_plain",
           {{"first_answer", Ratio(way, peer, "first_answer")},
            {"working_set", Ratio(way, peer, "working_set")},
            {"all_pages", Ratio(way, peer, "all_pages")}}},
          {"bytes_from_pool",
           {{"first_answer", median("first_answer_bytes")},
            {"working_set", median("working_set_bytes")},
            {"all_pages", median("all_bytes")}}},
          {"bytes_from_cache", median("cache_bytes")}};
}

nlohmann::ordered_json ToJson(const PoolReport& report) {
  nlohmann::ordered_json functions = nlohmann::ordered_json::array();
  for (const PoolFunction& function : report.functions) {
    nlohmann::ordered_json ways = nlohmann::ordered_json::array();
    for (const PoolWay& way : function.ways) ways.push_back(WayJson(way, function.ways.front()));
    functions.push_back({{"function", function.name}, {"pages_bytes", function.pages_bytes}, {"ways", std::move(ways)}});
  }
  nlohmann::ordered_json skipped = nlohmann::ordered_json::array();
  for (const auto& [name, why] : report.skipped) skipped.push_back({{"function", name}, {"why", why}});
  return {{"accel", report.accel},
          {"guest_kernel", report.guest_kernel},
          {"rounds", report.rounds},
          {"prefetch_mib", report.prefetch_mib},
          {"method",
           "first_answer_us: the attach and the answer to its first request; working_set_us: and the answers to four other "
           "requests; all_pages_us: from the call until the host has every page, asked for every 20 ms, where they are "
           "fetched, else the attach alone, which has them; of_plain: medians of the ratios, round by round, to an attach "
           "from the VM's own store; bytes: medians of what had come from the pool by then, and of what was mapped from "
           "the host's cache. cold: the host has nothing of the template, a file: pool's not in its page cache either, a "
           "dax: pool's not checked by this VM; cold_set: but what was touched after an earlier attach is known; warm: "
           "the host has all"},
          {"functions", std::move(functions)},
          {"skipped", std::move(skipped)}};
}

void PrintWay(const PoolWay& way, const PoolWay& peer) {
  const auto ms = [&](const char* what) { return way.samples.Median(what) / 1000; };
  const auto kib = [&](const char* what) { return way.samples.Median(what) / 1024; };
  std::printf("  %-16s %9.1f ms %8.2f x %9.1f ms %8.2f x %9.1f ms %10.0f %8.0f %8.0f\n",
              absl::StrCat(way.pool, " ", way.mode).c_str(), ms("first_answer"), Ratio(way, peer, "first_answer"),
              ms("working_set"), Ratio(way, peer, "working_set"), ms("all_pages"), kib("first_answer_bytes"),
              kib("working_set_bytes"), kib("all_bytes"));
}

void Print(const PoolReport& report) {
  std::printf("under %s, Linux %s in the guest; x: of an attach from the store, in the same round\n",
              report.accel.c_str(), report.guest_kernel.c_str());
  for (const PoolFunction& function : report.functions) {
    std::printf("\n%s, %.1f MiB of pages\n  %-16s %22s %22s %12s %28s\n", function.name.c_str(),
                static_cast<double>(function.pages_bytes) / (1 << 20), "", "first answer", "working set", "all pages",
                "KiB moved: first, set, all");
    for (const PoolWay& way : function.ways) PrintWay(way, function.ways.front());
  }
  for (const auto& [name, why] : report.skipped) std::printf("\n%s: skipped: %s\n", name.c_str(), why.c_str());
}

}  // namespace

int RunPools(const PoolArguments& arguments) {
  const absl::StatusOr<PoolReport> report = MeasurePools(arguments);
  if (!report.ok()) {
    std::fprintf(stderr, "moult-bench: pool: %s\n", std::string(report.status().message()).c_str());
    return 1;
  }
  Print(*report);
  const int written = WriteJson(arguments.json, ToJson(*report));
  return report->functions.empty() ? 1 : written;
}

}  // namespace moult::bench
