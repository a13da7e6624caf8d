// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "attach.h"
#include "json_file.h"
#include "moult/base/page.h"

namespace moult::bench {
namespace {

constexpr double kGoalNs = 100;  // of one more page, emulated

nlohmann::ordered_json SizesJson(const AttachReport& report) {
  nlohmann::ordered_json sizes = nlohmann::ordered_json::array();
  for (const AttachSize& size : report.sizes) {
    nlohmann::ordered_json phases = size.samples.Json();
    phases.erase("total");
    sizes.push_back({{"mib", size.mib},
                     {"pages", size.pages},
                     {"attach_us", ToJson(size.samples.Get("total"))},
                     {"first_us", size.first_us},
                     {"phases_us", std::move(phases)}});
  }
  return sizes;
}

// Those that grow by at least a nanosecond a page, the steepest first.
std::vector<std::pair<std::string, double>> GrowingPhases(const AttachReport& report) {
  std::vector<std::pair<std::string, double>> growing;
  for (const auto& [name, values] : report.sizes.front().samples.all()) {
    const double slope = GrowthByQuickest(report, name).slope;
    if (name != "total" && slope >= 1) growing.emplace_back(name, slope);
  }
  std::sort(growing.begin(), growing.end(), [](const auto& x, const auto& y) { return x.second > y.second; });
  return growing;
}

const char* Verdict(const AttachReport& report) {
  const bool medians = GrowthByMedians(report, "total").slope < kGoalNs;
  const bool quickest = GrowthByQuickest(report, "total").slope < kGoalNs;
  return medians != quickest ? "unclear" : medians ? "met" : "missed";
}

nlohmann::ordered_json ToJson(const AttachReport& report) {
  const Line medians = GrowthByMedians(report, "total");
  const Line floor = GrowthOfFloor(report);
  nlohmann::ordered_json phases = nlohmann::ordered_json::object();
  for (const auto& [name, slope] : GrowingPhases(report)) phases[name] = slope;
  return {{"accel", report.accel},
          {"guest_kernel", report.guest_kernel},
          {"rounds", report.rounds},
          {"method",
           "attach_us: from the call to the answer that the function is ready, pages in place, the template "
           "checked before; "
           "ns_per_page: slope of a line over the sizes through the medians, or through the quickest of "
           "each; phases of the "
           "host contain those of the agent; floor: MOULT_ATTACH alone in the same guest"},
          {"ns_per_page", medians.slope},
          {"ns_per_page_of_quickest", GrowthByQuickest(report, "total").slope},
          {"phases_ns_per_page", std::move(phases)},
          {"fixed_us", medians.at_zero / 1000},
          {"goal", {{"ns_per_page", kGoalNs}, {"verdict", Verdict(report)}}},
          {"floor", {{"ns_per_page", floor.slope}, {"sizes", report.floor}}},
          {"sizes", SizesJson(report)}};
}

void Print(const AttachReport& report) {
  const Line medians = GrowthByMedians(report, "total");
  const Line floor = GrowthOfFloor(report);
  std::printf(
      "\none more page costs %.1f ns by the medians, %.1f by the quickest (%s; goal: under %.0f, %s)\n",
      medians.slope, GrowthByQuickest(report, "total").slope, report.accel.c_str(), kGoalNs, Verdict(report));
  for (const auto& [name, slope] : GrowingPhases(report))
    std::printf("  %-24s %7.1f ns\n", name.c_str(), slope);
  std::printf(
      "an attach of none takes %.1f ms; for a page the driver alone takes %.1f ns in the same guest\n",
      medians.at_zero / 1e6, floor.slope);
}

Line Growth(const AttachReport& report, const std::string& part, double Summary::*which) {
  std::vector<std::pair<double, double>> points;
  for (const AttachSize& size : report.sizes)
    points.emplace_back(static_cast<double>(size.pages), size.samples.Get(part).*which * 1000);
  return FitLine(points);
}

}  // namespace

Line GrowthByMedians(const AttachReport& report, const std::string& part) {
  return Growth(report, part, &Summary::median);
}
Line GrowthByQuickest(const AttachReport& report, const std::string& part) {
  return Growth(report, part, &Summary::min);
}

Line GrowthOfFloor(const AttachReport& report) {
  std::vector<std::pair<double, double>> points;
  for (const nlohmann::json& size : report.floor) {
    const double pages = size.value("mib", 0.0) * (1 << 20) / kPage;
    points.emplace_back(pages, pages * size.value("attach_ns_per_page", 0.0));
  }
  return FitLine(points);
}

int RunAttach(const AttachArguments& arguments) {
  std::printf("attach in place, medians of %d (min..max)\n", arguments.rounds);
  const absl::StatusOr<AttachReport> report = MeasureAttach(arguments);
  if (!report.ok()) {
    std::fprintf(stderr, "moult-bench: attach: %s\n", std::string(report.status().message()).c_str());
    return 1;
  }
  Print(*report);
  return WriteJson(arguments.json, ToJson(*report));
}

}  // namespace moult::bench
