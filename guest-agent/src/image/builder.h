// SPDX-License-Identifier: Apache-2.0
//
// The builder: a fork of the tool that has the function's pid, makes everything that is not memory, then
// empties itself and runs the plan's program in the region. It ends as the function.
#ifndef MOULT_IMAGE_BUILDER_H_
#define MOULT_IMAGE_BUILDER_H_

#include "image/plan.h"
#include "moult/protocol/schema.h"

namespace moult::engine {

struct SandboxHandles {
  int pidfd = -1;             // of the sandbox's init: mount and ipc namespace
  int time_namespace = -1;    // descriptor of the time namespace
};

struct BuilderInput {
  const image::ProcessImageT* image;
  const Plan* plan;
  const FdNumbers* numbers;
  int tool_pidfd;             // readable when the tool has ended
  SandboxHandles sandbox;     // -1s: none
};

// Runs in the child, with all signals blocked; the region is mapped already. On an error it is in the region's Control, and the child exits.
[[noreturn]] void RunBuilder(const BuilderInput& input, std::byte* region_view);

}  // namespace moult::engine

#endif  // MOULT_IMAGE_BUILDER_H_
