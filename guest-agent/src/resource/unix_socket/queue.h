// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_RESOURCE_UNIX_SOCKET_QUEUE_H_
#define MOULT_RESOURCE_UNIX_SOCKET_QUEUE_H_

#include "absl/status/status.h"
#include "moult/protocol/template_generated.h"

namespace moult::engine {

// Copies what `fd` has received and not read, and leaves it there.
absl::Status CaptureQueue(int fd, image::UnixSocketT& resource);

// Sends the message through `sender`, to its peer or, with `to` not empty, to that address (sun_path bytes).
absl::Status SendMessage(int sender, const image::UnixMessageT& message, const std::vector<uint8_t>& to);

// Lets `fd` have `bytes` on their way, whatever its SO_SNDBUF; the way back is ResetSendBuffer.
absl::Status RaiseSendBuffer(int fd, size_t bytes, int* before);
absl::Status ResetSendBuffer(int fd, int before);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_UNIX_SOCKET_QUEUE_H_
