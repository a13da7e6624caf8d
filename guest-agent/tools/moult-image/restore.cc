// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

#include <fcntl.h>
#include <unistd.h>

#include "commands.h"
#include "image/restore.h"
#include "moult/base/unique_fd.h"
#include "output.h"

namespace moult::tool {

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
  nlohmann::ordered_json processes = nlohmann::ordered_json::array();
  for (const engine::RestoredProcess& process : result->processes) {
    absl::StrAppend(&pids, process.pid, "\n");
    nlohmann::ordered_json entry{{"pid", process.pid}};
    if (process.sandbox_init != 0) entry["sandbox_init"] = process.sandbox_init;
    processes.push_back(std::move(entry));
  }
  if (pidfile.valid() && (ftruncate(pidfile.get(), 0) < 0 || write(pidfile.get(), pids.data(), pids.size()) != static_cast<ssize_t>(pids.size()))) {
    std::fprintf(stderr, "moult-image: restore %s: the process runs, but pidfile %s was not written: %s\n", arguments.dir.c_str(),
                 arguments.pidfile.c_str(), ErrnoName(errno).c_str());
  }
  if (arguments.json) {
    const nlohmann::ordered_json json{{"processes", processes},
                                      {"phases_us", PhasesJson(result->phases)},
                                      {"total_us", result->total_us},
                                      {"notes", result->notes}};
    std::printf("%s\n", Dump(json).c_str());
  } else {
    std::fputs(pids.c_str(), stdout);
    for (const std::string& note : result->notes) std::fprintf(stderr, "note: %s\n", note.c_str());
  }
  return 0;
}

}  // namespace moult::tool
