// SPDX-License-Identifier: Apache-2.0
#include "report.h"

namespace moult::bench {
namespace {

constexpr double kPage = 4096;
constexpr double kMostExcessUs = 3000;
constexpr double kMostRestRatio = 2;
constexpr double kMostPythonRestUs = 3000;

struct SeriesKind {
  const char* name;
  const char* unit;
  double (*count)(const Measurement&);
  const char* dump_floor;
  const char* restore_floor;
};
constexpr SeriesKind kSeries[] = {
    {"pages", "page", [](const Measurement& m) { return static_cast<double>(m.private_bytes) / kPage; },
     kCopy, kFill},
    {"threads", "thread", [](const Measurement& m) { return static_cast<double>(m.threads); }, kStop,
     kClones},
    {"vmas", "mapping", [](const Measurement& m) { return static_cast<double>(m.vmas); }, nullptr, kMmaps},
    {"fds", "descriptor", [](const Measurement& m) { return static_cast<double>(m.fds); }, kLook, kFdCalls},
};

double Noise(const Samples& samples, const char* name) {
  const Summary summary = samples.Get(name);
  return summary.median - summary.min;
}

}  // namespace

std::vector<Growth> GrowthOf(const std::vector<Measurement>& measurements) {
  std::vector<Growth> all;
  for (const SeriesKind& kind : kSeries) {
    std::vector<const Measurement*> points;
    for (const Measurement& m : measurements) {
      if (m.status.ok() && m.subject.series == kind.name) points.push_back(&m);
    }
    if (points.size() < 2) continue;
    const auto fit = [&](const Samples Measurement::*samples, const char* name) {
      std::vector<std::pair<double, double>> line;
      for (const Measurement* m : points) line.emplace_back(kind.count(*m), (m->*samples).Median(name));
      return FitLine(line);
    };
    Growth growth{kind.name, kind.unit, points.size(), {}};
    growth.lines.emplace_back("dump stopped", fit(&Measurement::dump, kStopped));
    if (kind.dump_floor != nullptr)
      growth.lines.emplace_back(std::string(kind.dump_floor) == kCopy ? "  bare copy" : "  bare calls", fit(&Measurement::floor, kind.dump_floor));
    growth.lines.emplace_back("dump total", fit(&Measurement::dump, kTotal));
    growth.lines.emplace_back("restore total", fit(&Measurement::restore, kTotal));
    growth.lines.emplace_back("restore without page content", fit(&Measurement::restore, kRest));
    if (kind.restore_floor != nullptr) {
      growth.lines.emplace_back(std::string(kind.restore_floor) == kFill ? "  bare fill" : "  bare calls",
                                fit(&Measurement::floor, kind.restore_floor));
    }
    all.push_back(std::move(growth));
  }
  return all;
}

std::vector<Goal> GoalsOf(const Measurement& m) {
  if (!m.status.ok()) return {};
  const double excess_noise = Noise(m.dump, kStopped) + Noise(m.floor, kCopy);
  const double memcpy_noise = Noise(m.dump, kStopped) + Noise(m.floor, kMemcpy);
  const double rest_noise = Noise(m.restore, kTotal) + Noise(m.restore, kContent);
  const double rest = m.restore.Median(kRest);
  const double floor = m.floor.Median(kRestFloor);
  std::vector<Goal> goals{{m.subject.name, "stopped, beyond the bare page copy [ms]",
                           m.dump.Median(kExcess) / 1000, kMostExcessUs / 1000, excess_noise / 1000},
                          {m.subject.name, "stopped, beyond a memcpy of the pages [ms]",
                           m.dump.Median(kExcessMemcpy) / 1000, kMostExcessUs / 1000, memcpy_noise / 1000}};
  if (floor > 0) {
    goals.push_back({m.subject.name, "restore without page content / floor", rest / floor, kMostRestRatio,
                     (rest_noise + kMostRestRatio * Noise(m.floor, kRestFloor)) / floor});
  }
  if (m.subject.name == "python") {
    goals.push_back({m.subject.name, "restore without page content [ms]", rest / 1000,
                     kMostPythonRestUs / 1000, rest_noise / 1000});
  }
  return goals;
}

}  // namespace moult::bench
