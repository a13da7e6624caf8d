// SPDX-License-Identifier: Apache-2.0
//
// A dump holds another process's registers for a moment. The kernel lets a tracee run on with whatever
// registers it has when its tracer is killed, so the tracing happens in a child of its own session, which no
// signal meant for the tool reaches: when the tool is killed, the child puts everything back and ends.
#ifndef MOULT_TOOLS_MOULT_IMAGE_GUARDED_H_
#define MOULT_TOOLS_MOULT_IMAGE_GUARDED_H_

#include <functional>
#include <string>

namespace moult::tool {

struct WorkerOutput {
  int exit_code = 1;
  std::string out;  // for stdout
  std::string err;  // for stderr
};

// What `work` may ask of the tool. Both turn false when the tool has died.
struct Guard {
  std::function<bool()> tool_lives;
  // Has the tool itself do `last_act`; true when it has. So what only a living tool may do cannot come later than its death.
  // Once it is done, `output` is the result, unless `work` returns another.
  std::function<bool(const WorkerOutput& output)> tool_acts;
};

struct GuardedTask {
  std::string name;  // "dump 123", for errors
  bool json = false;
  std::function<void()> last_act;  // in the tool
  std::function<WorkerOutput(const Guard&)> work;
};

// Runs `task.work` in the guarded child and returns what it returned.
WorkerOutput RunGuarded(const GuardedTask& task);

}  // namespace moult::tool

#endif  // MOULT_TOOLS_MOULT_IMAGE_GUARDED_H_
