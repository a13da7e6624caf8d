// SPDX-License-Identifier: Apache-2.0
#include <csignal>
#include <cstdio>

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "commands.h"
#include "guarded.h"
#include "image/capture.h"
#include "moult/base/unique_fd.h"
#include "output.h"

namespace moult::tool {
namespace {

constexpr int kEndMs = 30'000;

std::string Describe(const engine::CaptureResult& result, const DumpArguments& arguments) {
  if (arguments.json) {
    nlohmann::ordered_json json{{"pid", result.pid},
                                {"name", result.name},
                                {"stopped_us", result.stopped_us},
                                {"total_us", result.total_us},
                                {"user_state_bytes", result.user_state_bytes},
                                {"threads", result.threads},
                                {"vmas", result.vmas},
                                {"fds", result.fds},
                                {"phases_us", PhasesJson(result.phases)},
                                {"notes", result.notes}};
    return Dump(json) + "\n";
  }
  std::string text = absl::StrFormat("%s: %s (pid %d), %d threads, %d mappings, %d descriptors, %.1f MiB of user state; stopped %.1f ms, %.1f ms in all\n",
                                     arguments.dir, result.name, result.pid, result.threads, result.vmas, result.fds,
                                     static_cast<double>(result.user_state_bytes) / (1 << 20),
                                     static_cast<double>(result.stopped_us) / 1000, static_cast<double>(result.total_us) / 1000);
  for (const std::string& note : result.notes) absl::StrAppend(&text, "note: ", note, "\n");
  return text;
}

}  // namespace

int RunDump(const DumpArguments& arguments) {
  // Opened before the fork. Where it cannot be, the capture says why.
  const UniqueFd victim(static_cast<int>(syscall(SYS_pidfd_open, arguments.pid, 0)));
  bool ended = false;
  const auto end_process = [&] { ended = syscall(SYS_pidfd_send_signal, victim.get(), SIGKILL, nullptr, 0) == 0; };
  const auto work = [&](const Guard& guard) -> WorkerOutput {
    engine::CaptureOptions options;
    options.leave_running = arguments.leave_running;
    options.may_go_on = guard.tool_lives;
    options.may_end = [&](const engine::CaptureResult& so_far) { return guard.tool_acts({0, Describe(so_far, arguments), ""}); };
    const auto result = engine::Capture(arguments.pid, arguments.dir, options);
    if (!result.ok()) return {ExitCode(result.status()), "", ErrorText(result.status(), arguments.json)};
    return {0, Describe(*result, arguments), ""};
  };
  const WorkerOutput output = RunGuarded({absl::StrCat("dump ", arguments.pid), arguments.json, end_process, work});
  if (ended) {
    // As a rule it is gone by now; when its tracer was killed, it is on its way.
    pollfd gone{victim.get(), POLLIN, 0};
    poll(&gone, 1, kEndMs);
  }
  std::fputs(output.out.c_str(), stdout);
  std::fputs(output.err.c_str(), stderr);
  return output.exit_code;
}

}  // namespace moult::tool
