// SPDX-License-Identifier: Apache-2.0
#include "replay/commands.h"

#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "replay/generate.h"
#include "replay/replay.h"
#include "replay/report.h"

namespace moult::bench {
namespace {

constexpr int kExitUsage = 2;

struct PolicyArguments {
  std::string trace;
  std::string json;
  std::vector<std::string> policies = {"none", "fixed", "semi-warm"};
  std::string restart = "cold";
  CostModel cost;
  double cold_start_ms = static_cast<double>(cost.cold_start.count()) / 1000;
  double attach_ms = static_cast<double>(cost.attach.count()) / 1000;
  double thaw_ms = static_cast<double>(cost.thaw.count()) / 1000;
  int64_t fault_us = cost.fault.count();
  std::vector<double> touch{cost.touch.values.begin(), cost.touch.values.end()};
  double husk_mib = static_cast<double>(cost.husk_bytes) / (1 << 20);
  double host_gb = 0;
};

struct TraceArguments {
  GenerateOptions options;
  std::string out;
};

int Fail(const char* command, const absl::Status& status, int code) {
  std::fprintf(stderr, "moult-bench: %s: %s\n", command, std::string(status.message()).c_str());
  return code;
}

CostModel Costs(const PolicyArguments& arguments) {
  const auto micros = [](double ms) { return Micros(static_cast<Micros::rep>(ms * 1000 + 0.5)); };
  CostModel cost = arguments.cost;
  cost.cold_start = micros(arguments.cold_start_ms);
  cost.attach = micros(arguments.attach_ms);
  cost.thaw = micros(arguments.thaw_ms);
  cost.fault = Micros(arguments.fault_us);
  cost.restart_by_attach = arguments.restart == "attach";
  for (size_t i = 0; i < host::kSegments; ++i) cost.touch.values[i] = arguments.touch[i];
  cost.husk_bytes = static_cast<uint64_t>(arguments.husk_mib * (1 << 20));
  cost.host_bytes = static_cast<uint64_t>(arguments.host_gb * 1e9);
  return cost;
}

int RunPolicy(const PolicyArguments& arguments) {
  const CostModel cost = Costs(arguments);
  std::vector<std::unique_ptr<host::Policy>> policies;
  ReplayAll all;
  for (const std::string& spec : arguments.policies) {
    auto policy = host::MakePolicy(spec);
    if (!policy.ok()) return Fail("policy", policy.status(), kExitUsage);
    policies.push_back(*std::move(policy));
    all.Add(*policies.back(), cost);
  }
  const absl::Status status = ReadTrace(arguments.trace, all);
  if (!status.ok()) return Fail("policy", status, 1);
  std::vector<NamedResult> results;
  for (size_t i = 0; i < policies.size(); ++i) {
    results.push_back({arguments.policies[i], all.replays()[i]->result()});
  }
  std::fputs(ReplayText(results, cost).c_str(), stdout);
  if (arguments.json.empty()) return 0;
  std::ofstream file(arguments.json);
  file << ReplayJson(results, cost).dump(2) << "\n";
  if (file.flush()) return 0;
  return Fail("policy", absl::InternalError(absl::StrCat("write ", arguments.json)), 1);
}

int RunTrace(const TraceArguments& arguments) {
  const GenerateOptions& options = arguments.options;
  auto writer = TraceWriter::Create(arguments.out);
  absl::Status status = writer.status();
  if (status.ok()) {
    status = (*writer)->Comment(absl::StrCat("moult-bench trace --profile ", options.profile, " --functions ",
                                             options.functions, " --hours ", options.hours, " --seed ",
                                             options.seed, " --most-per-second ", options.most_per_second));
  }
  if (status.ok()) status = Generate(options, **writer);
  return status.ok() ? 0 : Fail("trace", status, 1);
}

CLI::App* AddPolicy(CLI::App& app, PolicyArguments& arguments) {
  CLI::App* command = app.add_subcommand(
      "policy", "keep-alive policies on an invocation trace, in virtual time; tests/bench/trace.md");
  const auto option = [&](const char* name, auto& to, const char* help) {
    return command->add_option(name, to, help)->capture_default_str();
  };
  command->add_option("--trace", arguments.trace, "what to replay; -: standard input")->required();
  command->add_option("--json", arguments.json, "also write everything as JSON to this file");
  option("--policies", arguments.policies, "NAME[:KEY=VALUE]..., more than one joined by commas")
      ->delimiter(',');
  option("--cold-start-ms", arguments.cold_start_ms, "where the trace does not say")
      ->check(CLI::Range(0.0, 1e9));
  option("--attach-ms", arguments.attach_ms, "start from a template")->check(CLI::Range(0.0, 1e9));
  option("--restart", arguments.restart, "how a function that was ended starts again")
      ->check(CLI::IsMember({"cold", "attach"}));
  option("--thaw-ms", arguments.thaw_ms, "of a frozen function")->check(CLI::Range(0.0, 1e9));
  option("--fault-us", arguments.fault_us, "one page from the pool, on demand")
      ->check(CLI::Range(int64_t{0}, int64_t{1'000'000'000}));
  option("--offload-mib-s", arguments.cost.offload_mib_s, "0: takes no time")->check(CLI::Range(0.0, 1e9));
  option("--prefetch-mib-s", arguments.cost.prefetch_mib_s, "0: takes no time")->check(CLI::Range(0.0, 1e9));
  option("--prefetch-miss", arguments.cost.prefetch_miss, "share of touched pages that the working set lacks")
      ->check(CLI::Range(0.0, 1.0));
  option("--touch", arguments.touch, "share of runtime, init, exec that a request touches")
      ->delimiter(',')
      ->expected(static_cast<int>(host::kSegments))
      ->check(CLI::Range(0.0, 1.0));
  option("--husk-mib", arguments.husk_mib, "what a function takes that has everything offloaded")
      ->check(CLI::Range(0.0, 1e6));
  option("--host-gb", arguments.host_gb, "memory at which pressure is 1; 0: no pressure")
      ->check(CLI::Range(0.0, 1e9));
  return command;
}

CLI::App* AddTrace(CLI::App& app, TraceArguments& arguments) {
  CLI::App* command =
      app.add_subcommand("trace", "make an invocation trace with published statistics; tests/bench/trace.md");
  GenerateOptions& options = arguments.options;
  const auto option = [&](const char* name, auto& to, const char* help) {
    return command->add_option(name, to, help)->capture_default_str();
  };
  option("--functions", options.functions, "how many")->check(CLI::Range(1u, 10'000'000u));
  option("--hours", options.hours, "how long, from midnight on")->check(CLI::Range(0.001, 24.0 * 366));
  option("--seed", options.seed, "the same one makes the same trace");
  option("--profile", options.profile, "whose statistics")->check(CLI::IsMember({"azure", "huawei"}));
  option("--most-per-second", options.most_per_second, "no function has a higher rate in the mean")
      ->check(CLI::Range(0.001, 1e5));
  command->add_option("--out", arguments.out, "the file to write")->required();
  return command;
}

}  // namespace

ReplayCommands AddReplayCommands(CLI::App& app) {
  const auto policy = std::make_shared<PolicyArguments>();
  const auto trace = std::make_shared<TraceArguments>();
  return {AddPolicy(app, *policy), AddTrace(app, *trace), [policy] { return RunPolicy(*policy); },
          [trace] { return RunTrace(*trace); }};
}

}  // namespace moult::bench
