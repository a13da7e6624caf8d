// SPDX-License-Identifier: Apache-2.0
//
// Unix sockets. What the process has both ends of comes back with queues and boundaries; a stream connection
// to another process comes back closed, a datagram socket is connected again to the address it had.
// Not kept: connections that were not accepted yet, except those from the process itself, and the names of
// datagram senders outside.
#ifndef MOULT_RESOURCE_UNIX_SOCKET_UNIX_SOCKET_H_
#define MOULT_RESOURCE_UNIX_SOCKET_UNIX_SOCKET_H_

#include "resource/fd/kinds.h"

namespace moult::engine {

bool MatchesUnixSocket(const OpenDescription& description);
absl::Status CaptureUnixSocket(CaptureContext& context, const OpenDescription& description, image::OpenFileT& file);
// Makes all unix sockets at the first one, since they depend on each other; leaves them in context.open_files.
absl::StatusOr<UniqueFd> RestoreUnixSocket(RestoreContext& context, uint32_t index);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_UNIX_SOCKET_UNIX_SOCKET_H_
