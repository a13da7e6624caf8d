// SPDX-License-Identifier: Apache-2.0
//
// Starts programs and waits for them. Errors name the program.
#ifndef MOULT_BENCH_COMMAND_H_
#define MOULT_BENCH_COMMAND_H_

#include <sys/types.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "moult/base/status.h"

namespace moult::bench {

struct CommandResult {
  int exit_code = 0;
  std::string out;
  std::string err;
  double wall_us = 0;  // from before the spawn until the exit is known
};

// Runs it to its end; a signal that ended it is 128 + its number. Blocking. Output goes to memory files, so
// that nothing reads, and nothing waits, while it runs.
absl::StatusOr<CommandResult> RunCommand(const std::vector<std::string>& argv);
// The same, and its stdout as JSON; an exit other than 0 is an error with its stderr.
absl::StatusOr<nlohmann::json> RunForJson(const std::vector<std::string>& argv, double* wall_us = nullptr);

// Starts `argv` in a session of its own on /dev/null, and waits until it has written a byte to `ready_fd`.
absl::StatusOr<pid_t> StartUntilReady(const std::vector<std::string>& argv, int ready_fd);

// Ends a child of ours, or an orphan that came to us, and reaps it.
void End(pid_t pid);
void Reap(pid_t pid);

}  // namespace moult::bench

#endif  // MOULT_BENCH_COMMAND_H_
