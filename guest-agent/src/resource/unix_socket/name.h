// SPDX-License-Identifier: Apache-2.0
//
// Names of unix sockets: sun_path bytes, which for a path may be relative to the working directory.
#ifndef MOULT_RESOURCE_UNIX_SOCKET_NAME_H_
#define MOULT_RESOURCE_UNIX_SOCKET_NAME_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "moult/protocol/template_generated.h"

namespace moult::engine {

// Runs `body` with `cwd` as the working directory where `address` is a relative path.
absl::Status WithWorkingDirectory(const std::vector<uint8_t>& address, const std::string& cwd,
                                  const std::function<absl::Status()>& body);

// Binds `fd` to the saved name, and gives the socket file its mode and owner. A socket file that nobody serves
// any more is replaced; anything else in the way is an error.
absl::Status BindName(int fd, const image::UnixSocketT& saved, const std::string& cwd);

absl::Status ConnectTo(int fd, const std::vector<uint8_t>& address, const std::string& cwd);
// By the name that `target` has.
absl::Status ConnectToSocket(int fd, int target);

// For messages: a path, or "@name".
std::string FormatUnixAddress(const std::vector<uint8_t>& address);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_UNIX_SOCKET_NAME_H_
