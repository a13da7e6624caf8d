// SPDX-License-Identifier: Apache-2.0
//
// Epoll sets. An item is known to the process by the number under which it was added, and to the kernel by
// number and file: the number may be closed, or name another file, while the item lives on.
//
// What the kernel does not show is whether an edge (EPOLLET) was reported already. A ready edge-triggered
// item is therefore reported once more after restore, which such programs must expect anyway; a lost edge
// would make them wait for ever.
#ifndef MOULT_RESOURCE_EPOLL_EPOLL_H_
#define MOULT_RESOURCE_EPOLL_EPOLL_H_

#include "resource/fd/kinds.h"

namespace moult::engine {

bool MatchesEpoll(const OpenDescription& description);
absl::Status CaptureEpoll(CaptureContext& context, const OpenDescription& description, image::OpenFileT& file);
absl::StatusOr<UniqueFd> RestoreEpoll(RestoreContext& context, uint32_t index);
// Fills the set; other files' POSIX locks must not be taken yet (a number may be borrowed for a moment).
absl::Status FinishEpoll(RestoreContext& context, uint32_t index);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_EPOLL_EPOLL_H_
