// SPDX-License-Identifier: Apache-2.0
//
// Options of sockets of any family: those whose value differs from that of a fresh socket are kept, as
// getsockopt(2) gives them, and set again in the same order. So is what is asked for in another way than it is set, in
// the form in which setsockopt(2) takes it.
#ifndef MOULT_RESOURCE_INET_SOCKET_SOCKET_OPTIONS_H_
#define MOULT_RESOURCE_INET_SOCKET_SOCKET_OPTIONS_H_

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "moult/protocol/template_generated.h"

namespace moult::engine {

struct OptionName {
  int level;
  int name;
};

using OptionList = std::vector<std::unique_ptr<image::SocketOptionT>>;

// SOL_SOCKET options that make sense for every family.
absl::Span<const OptionName> GenericOptions();

void AppendOption(OptionList& options, int level, int name, const void* value, size_t size);

// Appends those of `names` that `fd` has otherwise than `fresh`. What the kernel does not know is left out.
absl::Status CaptureOptions(int fd, int fresh, absl::Span<const OptionName> names, OptionList& options);
// SO_ATTACH_FILTER and SO_LOCK_FILTER.
absl::Status CaptureFilter(int fd, OptionList& options);

absl::Status ApplyOption(int fd, const image::SocketOptionT& option);
absl::Status ApplyOptions(int fd, const OptionList& options);

// An int option, or `otherwise` where the kernel does not know it.
int IntOption(int fd, int level, int name, int otherwise);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_INET_SOCKET_SOCKET_OPTIONS_H_
