// SPDX-License-Identifier: Apache-2.0
#include "replay/replay.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "replay/generate.h"
#include "replay/report.h"

namespace moult::bench {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr uint64_t kMib = 1 << 20;
constexpr double kMibF = 1 << 20;

// Everything for nothing, so that what is left can be computed in one's head.
CostModel Free() {
  CostModel cost;
  cost.cold_start = seconds(1);
  cost.attach = milliseconds(100);
  cost.thaw = Micros(0);
  cost.fault = Micros(0);
  cost.offload_mib_s = 0;
  cost.prefetch_mib_s = 0;
  cost.prefetch_miss = 0;
  cost.touch = {{0.5, 0.5, 0.5}};
  cost.husk_bytes = 0;
  return cost;
}

struct Request {
  Micros at;
  Micros duration;
  uint32_t function = 0;
};

// Of functions with 40 MiB of runtime, 20 of init, 10 of exec.
ReplayResult Replayed(const char* spec, const CostModel& cost, const std::vector<Request>& requests,
                      Micros end, uint32_t functions = 1) {
  auto policy = host::MakePolicy(spec);
  EXPECT_TRUE(policy.ok()) << policy.status();
  Replay replay(**policy, cost);
  TraceFunction function;
  function.bytes = {{40 * kMib, 20 * kMib, 10 * kMib}};
  for (uint32_t i = 0; i < functions; ++i) EXPECT_TRUE(replay.AddFunction(function).ok());
  for (const Request& request : requests) {
    EXPECT_TRUE(replay.Invoke({request.at, request.function, request.duration}).ok());
  }
  EXPECT_TRUE(replay.End(end).ok());
  return replay.result();
}

TEST(LatenciesTest, Percentile_IsExactWhenSmall_AndWithinOnePercentElse) {
  Latencies latencies;
  for (int i = 1; i <= 100; ++i) latencies.Add(Micros(i));
  EXPECT_EQ(latencies.Percentile(0.5), 50u);
  EXPECT_EQ(latencies.Percentile(0.99), 99u);
  EXPECT_EQ(latencies.Percentile(1), 100u);
  EXPECT_DOUBLE_EQ(latencies.Mean(), 50.5);
  for (const uint64_t value : {128u, 1000u, 123'456u, 4'000'000'000u}) {
    Latencies one;
    one.Add(Micros(static_cast<Micros::rep>(value)));
    one.Add(Micros(static_cast<Micros::rep>(value * 8)));
    EXPECT_GE(one.Percentile(0.5), value);
    EXPECT_LT(static_cast<double>(one.Percentile(0.5)), static_cast<double>(value) * 1.01);
    EXPECT_EQ(one.Largest(), value * 8);
    EXPECT_EQ(one.Percentile(1), value * 8);
  }
}

// Starts at 0 s, runs from 1 to 2, is ended at 5; again at 7: runs from 8 to 9, ended at 12; 20 is the end.
TEST(ReplayTest, Fixed_StartsTwice_WhenRequestsAreFurtherApartThanItKeeps) {
  const ReplayResult r = Replayed("fixed:keep_alive_s=3", Free(),
                                  {{seconds(0), seconds(1)}, {seconds(7), seconds(1)}}, seconds(20));
  EXPECT_EQ(r.cold_starts, 2u);
  EXPECT_EQ(r.ends, 2u);
  EXPECT_DOUBLE_EQ(r.resident.ByteSeconds(), 70 * kMibF * (5 + 5));
  EXPECT_EQ(r.resident.peak(), 70 * kMib);
  EXPECT_EQ(r.resident.bytes(), 0u);
  EXPECT_DOUBLE_EQ(r.latency.Mean(), 1e6);
  EXPECT_EQ(r.recalled, 0u);
  EXPECT_EQ(r.length, seconds(20));
}

// Requests of no length 5 s apart: idle from 1 to 5, ended at 4.
TEST(ReplayTest, Fixed_StartsTwice_WhenRequestsAreFiveSecondsApart) {
  const ReplayResult r = Replayed("fixed:keep_alive_s=3", Free(),
                                  {{seconds(0), Micros(0)}, {seconds(5), Micros(0)}}, seconds(6));
  EXPECT_EQ(r.cold_starts, 2u);
  EXPECT_DOUBLE_EQ(r.resident.ByteSeconds(), 70 * kMibF * (4 + 1));
}

TEST(ReplayTest, Fixed_StartsOnce_WhenARequestComesInTime) {
  const ReplayResult r = Replayed("fixed:keep_alive_s=3", Free(),
                                  {{seconds(0), seconds(1)}, {milliseconds(4999), seconds(1)}}, seconds(20));
  EXPECT_EQ(r.cold_starts, 1u);
  EXPECT_DOUBLE_EQ(r.resident.ByteSeconds(), 70 * kMibF * 8.999);
  EXPECT_EQ(r.latency.Percentile(0.5), 0u);
  EXPECT_EQ(r.latency.Largest(), 1'000'000u);
}

TEST(ReplayTest, Restart_IsAnAttach_WhenToldSo) {
  CostModel cost = Free();
  cost.restart_by_attach = true;
  const ReplayResult r = Replayed("fixed:keep_alive_s=3", cost,
                                  {{seconds(0), seconds(1)}, {seconds(7), seconds(1)}}, seconds(20));
  EXPECT_EQ(r.cold_starts, 2u);
  EXPECT_DOUBLE_EQ(r.latency.Mean(), (1'000'000 + 100'000) / 2.0);
  EXPECT_DOUBLE_EQ(r.resident.ByteSeconds(), 70 * kMibF * (5 + 0.1 + 1 + 3));
}

// What comes during a start waits for the rest of it, and shares the instance.
TEST(ReplayTest, Requests_ThatComeTogether_ShareAnInstance) {
  const ReplayResult r = Replayed(
      "fixed:keep_alive_s=3", Free(),
      {{seconds(0), seconds(10)}, {milliseconds(400), seconds(1)}, {seconds(2), seconds(1)}}, seconds(30));
  EXPECT_EQ(r.cold_starts, 1u);
  EXPECT_DOUBLE_EQ(r.latency.Mean(), (1'000'000 + 600'000 + 0) / 3.0);
  EXPECT_DOUBLE_EQ(r.resident.ByteSeconds(), 70 * kMibF * (1 + 10 + 3));
}

TEST(ReplayTest, None_KeepsAllToTheEnd) {
  const ReplayResult r =
      Replayed("none", Free(), {{seconds(1), seconds(1)}, {seconds(9), seconds(1), 1}}, seconds(21), 3);
  EXPECT_EQ(r.functions, 3u);
  EXPECT_EQ(r.cold_starts, 2u);
  EXPECT_DOUBLE_EQ(r.resident.ByteSeconds(), 70 * kMibF * (20 + 12));
  EXPECT_EQ(r.resident.peak(), 140 * kMib);
}

// Runs from 1 to 2. Exec (10) leaves at 2, init (20) at 4, runtime (40) in tens at 4, 5, 6, 7; from then on
// nothing. At 12 half of everything is touched.
constexpr char kSteps[] =
    "semi-warm:settle_s=0:init_unknown_s=2:step_mib=10:step_share=0:step_every_s=1:recall=all";

TEST(ReplayTest, SemiWarm_HoldsWhatIsNotYetMoved) {
  const ReplayResult r = Replayed(kSteps, Free(), {{seconds(0), seconds(1)}}, seconds(10));
  EXPECT_DOUBLE_EQ(r.resident.ByteSeconds(), kMibF * (70 * 2 + 60 * 2 + 30 * 1 + 20 * 1 + 10 * 1));
  EXPECT_DOUBLE_EQ(r.offloaded.ByteSeconds(), kMibF * (10 * 2 + 40 + 50 + 60 + 70 * 3));
  EXPECT_EQ(r.offload_bytes, 70 * kMib);
  EXPECT_EQ(r.offloaded.bytes(), 70 * kMib);
  EXPECT_EQ(r.cold_starts, 1u);
}

TEST(ReplayTest, SemiWarm_BringsAllBack_ForARequest) {
  const ReplayResult r =
      Replayed(kSteps, Free(), {{seconds(0), seconds(1)}, {seconds(12), seconds(1)}}, seconds(13));
  EXPECT_EQ(r.recalled, 0u);  // it took no time
  EXPECT_EQ(r.recall_bytes, 70 * kMib);
  EXPECT_EQ(r.resident.bytes(), 60 * kMib);  // at 13, exec has left again
  EXPECT_EQ(r.offloaded.bytes(), 10 * kMib);
  EXPECT_EQ(r.cold_starts, 1u);
}

TEST(ReplayTest, Recall_CostsWhatItsModeSays) {
  CostModel cost = Free();
  cost.thaw = milliseconds(2);
  cost.fault = Micros(10);
  cost.prefetch_mib_s = 100;
  cost.prefetch_miss = 0.25;
  const std::vector<Request> requests = {{seconds(0), seconds(1)}, {seconds(12), milliseconds(900)}};
  // 35 MiB are touched: 8960 pages. A quarter of them is not in the recorded working set.
  const struct {
    const char* mode;
    uint64_t micros;
    uint64_t back;
    uint64_t resident;  // at the end, while the request runs
  } kModes[] = {
      {":recall=faults", 2000 + 89'600, 35 * kMib, 40 * kMib},  // exec is written anew, all of it
      {":recall=working-set", 2000 + 350'000 + 22'400, 35 * kMib, 40 * kMib},
      {":recall=all", 2000 + 350'000 + 22'400, 70 * kMib, 70 * kMib},
  };
  for (const auto& mode : kModes) {
    const ReplayResult r =
        Replayed((std::string(kSteps) + mode.mode).c_str(), cost, requests, milliseconds(12'800));
    EXPECT_EQ(r.latency.Mean() * 2 - 1'000'000, static_cast<double>(mode.micros)) << mode.mode;
    EXPECT_EQ(r.recall_bytes, mode.back) << mode.mode;
    EXPECT_EQ(r.resident.bytes(), mode.resident) << mode.mode;
    EXPECT_EQ(r.recalled, 1u) << mode.mode;
  }
}

TEST(ReplayTest, Recall_IsWaitedForByWhatComesMeanwhile) {
  CostModel cost = Free();
  cost.prefetch_mib_s = 35;  // one second
  const ReplayResult r = Replayed(kSteps, cost,
                                  {{seconds(0), seconds(1)},
                                   {seconds(12), seconds(5)},
                                   {milliseconds(12'250), seconds(1)},
                                   {seconds(14), seconds(1)}},
                                  seconds(15));
  EXPECT_EQ(r.recalled, 2u);
  EXPECT_DOUBLE_EQ(r.latency.Mean(), (1'000'000 + 1'000'000 + 750'000 + 0) / 4.0);
}

// 10 MiB of exec take two seconds, from 2 to 4.
TEST(ReplayTest, Offload_TakesItsTime_AndIsGivenUpForARequest) {
  CostModel cost = Free();
  cost.offload_mib_s = 5;
  const char* policy = "semi-warm:settle_s=0:init_unknown_s=100";
  const ReplayResult whole = Replayed(policy, cost, {{seconds(0), seconds(1)}}, seconds(10));
  EXPECT_DOUBLE_EQ(whole.resident.ByteSeconds(), kMibF * (70 * 4 + 60 * 6));
  const ReplayResult stopped =
      Replayed(policy, cost, {{seconds(0), seconds(1)}, {seconds(3), seconds(1)}}, seconds(10));
  EXPECT_DOUBLE_EQ(stopped.resident.ByteSeconds(), kMibF * (70 * 6 + 60 * 4));
  EXPECT_EQ(stopped.offload_bytes, 10 * kMib);
  EXPECT_EQ(stopped.recall_bytes, 0u);
}

TEST(ReplayTest, Husk_StaysUntilTheEnd) {
  CostModel cost = Free();
  cost.husk_bytes = kMib;
  const ReplayResult r = Replayed((std::string(kSteps) + ":end_after_s=8").c_str(), cost,
                                  {{seconds(0), seconds(1)}}, seconds(20));
  EXPECT_DOUBLE_EQ(r.resident.ByteSeconds(), kMibF * (320 + 10));
  EXPECT_EQ(r.ends, 1u);
  EXPECT_EQ(r.resident.bytes(), 0u);
  EXPECT_EQ(r.offloaded.bytes(), 0u);
}

TEST(ReplayTest, Pressure_IsShownToThePolicy) {
  struct Watch : host::Policy {
    host::Decision Next(const host::FunctionView& now) override {
      most = std::max(most, now.pressure);
      return {};
    }
    double most = 0;
  } watch;
  CostModel cost = Free();
  cost.host_bytes = 280 * kMib;
  Replay replay(watch, cost);
  TraceFunction function;
  function.bytes = {{40 * kMib, 20 * kMib, 10 * kMib}};
  for (uint32_t i = 0; i < 2; ++i) {
    ASSERT_TRUE(replay.AddFunction(function).ok());
    ASSERT_TRUE(replay.Invoke({seconds(i), i, seconds(1)}).ok());
  }
  ASSERT_TRUE(replay.End(seconds(9)).ok());
  EXPECT_DOUBLE_EQ(watch.most, 0.5);
}

// A policy that says "again at once" for ever does not stop time.
TEST(ReplayTest, Time_GoesOn_WhateverAPolicySays) {
  struct Restless : host::Policy {
    host::Decision Next(const host::FunctionView&) override {
      host::Decision decision;
      decision.wake_after = Micros(0);
      decision.offload[Segment::kInit] = UINT64_MAX;
      return decision;
    }
  } restless;
  Replay replay(restless, Free());
  TraceFunction function;
  function.bytes[Segment::kInit] = kMib;
  ASSERT_TRUE(replay.AddFunction(function).ok());
  ASSERT_TRUE(replay.Invoke({Micros(0), 0, Micros(0)}).ok());
  ASSERT_TRUE(replay.End(seconds(1) + milliseconds(2)).ok());
  EXPECT_EQ(replay.result().offload_bytes, 0u);  // it did not freeze it
}

// Whatever the trace: each function starts once without a policy, none holds more than that, and the same
// input gives the same output.
TEST(ReplayTest, Policies_KeepTheirOrder_OnGeneratedTraces) {
  for (const uint64_t seed : {1u, 2u, 3u}) {
    GenerateOptions options;
    options.functions = 150;
    options.hours = 6;
    options.seed = seed;
    options.most_per_second = 0.2;
    std::vector<std::unique_ptr<host::Policy>> policies;
    ReplayAll all;
    for (const char* spec : {"none", "fixed", "semi-warm:recall=all", "semi-warm", "semi-warm:recall=all"}) {
      policies.push_back(*host::MakePolicy(spec));
      all.Add(*policies.back(), CostModel());
    }
    ASSERT_TRUE(Generate(options, all).ok());
    const ReplayResult& none = all.replays()[0]->result();
    EXPECT_LE(none.cold_starts, options.functions);
    EXPECT_GT(none.invocations, 1000u);
    for (const auto& replay : all.replays()) {
      const ReplayResult& r = replay->result();
      EXPECT_EQ(r.invocations, none.invocations);
      EXPECT_EQ(r.latency.count(), none.invocations);
      EXPECT_LE(r.resident.ByteSeconds(), none.resident.ByteSeconds());
      EXPECT_LE(r.resident.peak(), none.resident.peak());
      EXPECT_GE(r.cold_starts, none.cold_starts);
    }
    const ReplayResult& all_back = all.replays()[2]->result();
    const ReplayResult& working_set = all.replays()[3]->result();
    EXPECT_GT(all_back.recalled, 0u);
    EXPECT_LE(working_set.resident.ByteSeconds(), all_back.resident.ByteSeconds());
    EXPECT_EQ(ReplayJson({{"x", all_back}}, CostModel()),
              ReplayJson({{"x", all.replays()[4]->result()}}, CostModel()));
  }
}

TEST(ReportTest, Saved_IsAgainstTheFixedKeepAlive) {
  const std::vector<Request> requests = {{seconds(0), seconds(1)}};
  const std::vector<NamedResult> results = {
      {"none", Replayed("none", Free(), requests, seconds(10))},
      {"fixed:keep_alive_s=3", Replayed("fixed:keep_alive_s=3", Free(), requests, seconds(10))}};
  const auto json = ReplayJson(results, Free());
  EXPECT_DOUBLE_EQ(json["policies"][0]["saved"].get<double>(), -1);
  EXPECT_DOUBLE_EQ(json["policies"][1]["saved"].get<double>(), 0);
  EXPECT_DOUBLE_EQ(json["policies"][0]["memory_gb"]["mean"].get<double>(), 70 * kMibF / 1e9);
  EXPECT_DOUBLE_EQ(json["policies"][1]["memory_gb_hours"].get<double>(), 70 * kMibF * 5 / 1e9 / 3600);
  EXPECT_EQ(json["costs"]["cold_start_ms"], 1000.0);
  EXPECT_THAT(ReplayText(results, Free()), ::testing::HasSubstr("-100.0%"));
  EXPECT_TRUE(ReplayJson({results[0]}, Free())["policies"][0]["saved"].is_null());
}

}  // namespace
}  // namespace moult::bench
