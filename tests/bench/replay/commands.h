// SPDX-License-Identifier: Apache-2.0
//
// `moult-bench policy` and `moult-bench trace`.
#ifndef MOULT_BENCH_REPLAY_COMMANDS_H_
#define MOULT_BENCH_REPLAY_COMMANDS_H_

#include <CLI/CLI.hpp>
#include <functional>

namespace moult::bench {

// Adds the subcommands. What is given back runs the one that was parsed, and gives the exit code; it is to be
// called only when one was.
struct ReplayCommands {
  CLI::App* policy;
  CLI::App* trace;
  std::function<int()> run_policy;
  std::function<int()> run_trace;
};
ReplayCommands AddReplayCommands(CLI::App& app);

}  // namespace moult::bench

#endif  // MOULT_BENCH_REPLAY_COMMANDS_H_
