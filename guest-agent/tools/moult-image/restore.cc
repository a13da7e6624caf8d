// SPDX-License-Identifier: Apache-2.0
#include <csignal>
#include <cstdio>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "commands.h"
#include "image/restore.h"
#include "moult/base/unique_fd.h"
#include "output.h"

namespace moult::tool {
namespace {

// A sandbox ends with its init. What is a child of ours keeps its pid until it is waited for here; what was handed to a
// lasting parent was started a moment ago.
void EndAll(const engine::RestoreResult& result) {
  for (const engine::RestoredProcess& process : result.processes) {
    const pid_t child = process.sandbox_init != 0 ? process.sandbox_init : process.pid;
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
  }
}

bool WritePids(int pidfile, const std::string& pids) {
  // What cannot be cut (a FIFO, a device) has nothing to be cut off.
  if (ftruncate(pidfile, 0) < 0 && errno != EINVAL) return false;
  return write(pidfile, pids.data(), pids.size()) == static_cast<ssize_t>(pids.size());
}

std::string Describe(const engine::RestoreResult& result, const std::string& pids, bool json) {
  if (!json) return pids;
  nlohmann::ordered_json processes = nlohmann::ordered_json::array();
  for (const engine::RestoredProcess& process : result.processes) {
    nlohmann::ordered_json entry{{"pid", process.pid}};
    if (process.sandbox_init != 0) entry["sandbox_init"] = process.sandbox_init;
    processes.push_back(std::move(entry));
  }
  return Dump({{"processes", processes}, {"phases_us", PhasesJson(result.phases)}, {"total_us", result.total_us}, {"notes", result.notes}}) + "\n";
}

}  // namespace

int RunRestore(const RestoreArguments& arguments) {
  // Opened first: a pid that cannot be told is no reason to have made a process.
  UniqueFd pidfile;
  if (!arguments.pidfile.empty()) {
    pidfile.Reset(open(arguments.pidfile.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    if (!pidfile.valid()) return Fail(ErrnoStatus(absl::StrCat("restore ", arguments.dir, ": open pidfile ", arguments.pidfile)), arguments.json);
  }
  engine::RestoreOptions options;
  options.sandbox = arguments.sandbox;
  options.count = arguments.count;
  const auto result = engine::Restore(arguments.dir, options);
  if (!result.ok()) return Fail(result.status(), arguments.json);

  std::string pids;
  for (const engine::RestoredProcess& process : result->processes) absl::StrAppend(&pids, process.pid, "\n");
  // A process that nobody was told of is as good as half made.
  const auto untold = [&](const absl::Status& why) {
    EndAll(*result);
    return Fail(absl::Status(why.code(), absl::StrCat("restore ", arguments.dir, ": ", why.message(), "; nothing of the restore is left")), arguments.json);
  };
  if (pidfile.valid() && !WritePids(pidfile.get(), pids)) return untold(ErrnoStatus(absl::StrCat("write the pids to ", arguments.pidfile)));
  std::fputs(Describe(*result, pids, arguments.json).c_str(), stdout);
  if (const absl::Status told = FlushStdout(); !told.ok()) return untold(told);
  if (!arguments.json) {
    for (const std::string& note : result->notes) std::fprintf(stderr, "note: %s\n", note.c_str());
  }
  return 0;
}

}  // namespace moult::tool
