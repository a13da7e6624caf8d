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

// Runs `work` in the guarded child and returns what it returned. `work` is given a question that turns false
// when the tool has died.
WorkerOutput RunGuarded(const std::function<WorkerOutput(const std::function<bool()>& tool_lives)>& work);

}  // namespace moult::tool

#endif  // MOULT_TOOLS_MOULT_IMAGE_GUARDED_H_
