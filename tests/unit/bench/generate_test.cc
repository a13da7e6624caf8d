// SPDX-License-Identifier: Apache-2.0
#include "replay/generate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <vector>

#include "replay/profile.h"

namespace moult::bench {
namespace {

// What a trace amounts to, function by function.
struct Statistics : TraceSink {
  absl::Status AddFunction(const TraceFunction& function) override {
    functions.push_back(function);
    seen.emplace_back();
    return absl::OkStatus();
  }
  absl::Status Invoke(const Invocation& invocation) override {
    ordered &= invocation.at >= last;
    last = invocation.at;
    Seen& s = seen[invocation.function];
    const auto at = static_cast<double>(invocation.at.count()) / 1e6;
    if (s.count > 0) {
      s.gaps += at - s.last;
      s.squares += (at - s.last) * (at - s.last);
    }
    s.last = at;
    ++s.count;
    s.duration += static_cast<double>(invocation.duration.count()) / 1e6;
    if (functions[invocation.function].trigger != Trigger::kTimer) {
      ++hours[static_cast<size_t>(at / 3600) % 24];
    }
    const auto fold = [this](auto value) {
      digest = (digest ^ static_cast<uint64_t>(value)) * 0x100000001b3;
    };
    fold(invocation.at.count());
    fold(invocation.function);
    fold(invocation.duration.count());
    return absl::OkStatus();
  }
  absl::Status End(Micros at) override {
    end = at;
    return absl::OkStatus();
  }

  struct Seen {
    double count = 0, gaps = 0, squares = 0, last = 0, duration = 0;
    double Variation() const {  // of the gaps
      const double n = count - 1;
      const double mean = gaps / n;
      return std::sqrt(std::max(0.0, squares / n - mean * mean)) / mean;
    }
  };
  double Share(auto predicate) const {
    double n = 0;
    for (size_t i = 0; i < seen.size(); ++i) n += predicate(functions[i], seen[i]) ? 1 : 0;
    return n / static_cast<double>(seen.size());
  }

  std::vector<TraceFunction> functions;
  std::vector<Seen> seen;
  std::array<double, 24> hours{};
  uint64_t digest = 0xcbf29ce484222325;
  bool ordered = true;
  Micros last{0}, end{0};
};

Statistics Make(GenerateOptions options) {
  Statistics statistics;
  const absl::Status status = Generate(options, statistics);
  EXPECT_TRUE(status.ok()) << status;
  return statistics;
}

double TotalMb(const TraceFunction& function) {
  return static_cast<double>(
             std::accumulate(function.bytes.values.begin(), function.bytes.values.end(), uint64_t{0})) /
         1e6;
}

template <typename T>
T Quantile(std::vector<T> values, double p) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(p * static_cast<double>(values.size() - 1))];
}

// A day, made once in a process.
const Statistics& Azure() {
  static const Statistics statistics = [] {
    GenerateOptions options;
    options.functions = 1000;
    options.most_per_second = 2;
    return Make(options);
  }();
  return statistics;
}

TEST(GenerateTest, Trace_IsInOrder_AndAsLongAsAsked) {
  EXPECT_TRUE(Azure().ordered);
  EXPECT_EQ(Azure().end, std::chrono::hours(24));
  EXPECT_EQ(Azure().functions.size(), 1000u);
}

TEST(GenerateTest, Azure_HasRatesAsPublished) {
  // Over a day, whose Poisson noise blurs what lies at the edge.
  EXPECT_NEAR(Azure().Share([](auto&, auto& s) { return s.count <= 24; }), 0.45, 0.04);
  EXPECT_NEAR(Azure().Share([](auto&, auto& s) { return s.count <= 1440; }), 0.81, 0.03);
  std::vector<double> counts;
  for (const auto& s : Azure().seen) counts.push_back(s.count);
  std::sort(counts.begin(), counts.end(), std::greater<>());
  const double all = std::accumulate(counts.begin(), counts.end(), 0.0);
  const double top = std::accumulate(counts.begin(), counts.begin() + 186, 0.0);  // 18.6 %
  EXPECT_GT(top / all, 0.97);  // published: 99.6 %; this trace's highest rates are cut off
  EXPECT_LT(top / all, 1);
}

TEST(GenerateTest, Azure_WithoutCut_HasNearlyAllInTheMostPopular) {
  const Profile& azure = *FindProfile("azure");
  double all = 0;
  double top = 0;
  for (int i = 0; i < 100'000; ++i) {
    const double u = (i + 0.5) / 100'000;
    all += RatePerDay(azure, u);
    if (u > 1 - 0.186) top += RatePerDay(azure, u);
  }
  EXPECT_NEAR(top / all, 0.996, 0.004);
  EXPECT_GE(RatePerDay(azure, 1) / RatePerDay(azure, 0), 1e8 * 0.999);
}

TEST(GenerateTest, Azure_HasTimersThatAreExact_AndFew) {
  EXPECT_NEAR(Azure().Share([](auto& f, auto&) { return f.trigger == Trigger::kTimer; }), 0.16, 0.005);
  EXPECT_NEAR(Azure().Share([](auto& f, auto&) { return f.trigger == Trigger::kHttp; }), 0.55, 0.005);
  double timers = 0;
  double all = 0;
  for (size_t i = 0; i < Azure().seen.size(); ++i) {
    const auto& s = Azure().seen[i];
    all += s.count;
    if (Azure().functions[i].trigger != Trigger::kTimer) continue;
    timers += s.count;
    if (s.count > 2) {
      EXPECT_LT(s.Variation(), 1e-3) << i;
      EXPECT_EQ(std::fmod(std::round(s.gaps / (s.count - 1)), 60), 0) << i;
    }
  }
  EXPECT_LT(timers / all, 0.02);
}

TEST(GenerateTest, Azure_HasBurstyFunctions_AndPlainOnes) {
  double bursty = 0;
  double plain = 0;
  double all = 0;
  for (size_t i = 0; i < Azure().seen.size(); ++i) {
    if (Azure().functions[i].trigger == Trigger::kTimer || Azure().seen[i].count < 2000) continue;
    const double variation = Azure().seen[i].Variation();
    bursty += variation > 2 ? 1 : 0;
    plain += variation < 1.4 ? 1 : 0;
    ++all;
  }
  EXPECT_GT(all, 100);
  EXPECT_NEAR(bursty / all, 0.5, 0.12);
  EXPECT_NEAR(plain / all, 0.5, 0.12);
}

TEST(GenerateTest, Azure_SwingsOverTheDay) {
  const auto [least, most] = std::minmax_element(Azure().hours.begin(), Azure().hours.end());
  EXPECT_NEAR(*least / *most, 0.5, 0.07);  // published: half of the load does not vary
  EXPECT_GT(Azure().hours[14], Azure().hours[2]);
}

TEST(GenerateTest, Azure_HasLognormalDurations) {
  std::vector<double> logs;
  for (const auto& s : Azure().seen) {
    if (s.count >= 20) logs.push_back(std::log(s.duration / s.count));
  }
  const double n = static_cast<double>(logs.size());
  const double mean = std::accumulate(logs.begin(), logs.end(), 0.0) / n;
  double square = 0;
  for (const double x : logs) square += (x - mean) * (x - mean) / n;
  EXPECT_NEAR(mean, -0.38, 0.25);
  EXPECT_NEAR(std::sqrt(square), 2.36, 0.2);  // a little less, being cut off at ten minutes
  const auto under = [&](double seconds) {
    return static_cast<double>(
               std::count_if(logs.begin(), logs.end(), [&](double x) { return x < std::log(seconds); })) /
           n;
  };
  EXPECT_NEAR(under(1), 0.5, 0.1);  // as published, and so 96 %:
  EXPECT_NEAR(under(60), 0.96, 0.025);
}

TEST(GenerateTest, Azure_HasMemoryAsBurr) {
  std::vector<double> mb;
  for (const auto& f : Azure().functions) {
    mb.push_back(TotalMb(f));
    for (const uint64_t bytes : f.bytes.values) EXPECT_GT(bytes, 0u);
  }
  // The inverse of 1 - (1 + (x / 107.083)^11.652)^-0.221.
  EXPECT_NEAR(Quantile(mb, 0.5), 139.6, 2);
  EXPECT_NEAR(Quantile(mb, 0.9), 261.8, 4);
  EXPECT_LE(Quantile(mb, 1), 1536);
}

TEST(GenerateTest, Huawei_SpansNineOrders_AndSwingsMore) {
  const Profile& huawei = *FindProfile("huawei");
  EXPECT_NEAR(std::log10(RatePerDay(huawei, 1) / RatePerDay(huawei, 0)), 9, 0.01);
  GenerateOptions options;
  options.functions = 400;
  options.profile = "huawei";
  options.most_per_second = 1;
  const Statistics made = Make(options);
  const auto [least, most] = std::minmax_element(made.hours.begin(), made.hours.end());
  EXPECT_NEAR(*least / *most, 0.25, 0.06);
  EXPECT_NEAR(made.Share([](auto& f, auto&) { return f.trigger == Trigger::kTimer; }), 0.4, 0.01);
}

TEST(GenerateTest, Seed_MakesTheTrace) {
  GenerateOptions options;
  options.functions = 100;
  options.hours = 2;
  options.most_per_second = 1;
  const Statistics first = Make(options);
  const Statistics again = Make(options);
  EXPECT_EQ(first.digest, again.digest);
  for (size_t i = 0; i < first.functions.size(); ++i) {
    EXPECT_EQ(first.functions[i].bytes.values, again.functions[i].bytes.values);
  }
  options.seed = 2;
  EXPECT_NE(Make(options).digest, first.digest);
}

TEST(GenerateTest, Profile_MustBeOne) {
  GenerateOptions options;
  options.profile = "gcp";
  Statistics statistics;
  const absl::Status status = Generate(options, statistics);
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()),
              ::testing::HasSubstr("there is no profile \"gcp\"; there are azure, huawei"));
}

}  // namespace
}  // namespace moult::bench
