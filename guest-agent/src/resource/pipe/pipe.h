// SPDX-License-Identifier: Apache-2.0
//
// Anonymous pipes and FIFOs. All ends of one pipe share a PipeBuffer, which holds capacity and content.
#ifndef MOULT_RESOURCE_PIPE_PIPE_H_
#define MOULT_RESOURCE_PIPE_PIPE_H_

#include "resource/fd/kinds.h"

namespace moult::engine {

bool MatchesPipe(const OpenDescription& description);
absl::Status CapturePipe(CaptureContext& context, const OpenDescription& description, image::OpenFileT& file);
// Makes every end of the pipe at its first one; the others are left in context.open_files.
absl::StatusOr<UniqueFd> RestorePipe(RestoreContext& context, uint32_t index);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_PIPE_PIPE_H_
