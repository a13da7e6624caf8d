// SPDX-License-Identifier: Apache-2.0
#include "listener.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "message.h"
#include "moult/base/status.h"

namespace moult::control {
namespace {

constexpr int kBacklog = 16;

absl::StatusOr<sockaddr_un> Address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("socket path \"", path, "\" must have 1 to ",
                                                   sizeof(address.sun_path) - 1,
                                                   " bytes; choose a shorter one"));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

// SAFETY: the kernel's interface takes every kind of address as a sockaddr.
const sockaddr* Generic(const sockaddr_un& address) { return reinterpret_cast<const sockaddr*>(&address); }

// Removes a socket on which nobody listens any more.
absl::Status RemoveStale(const std::string& path) {
  struct stat info;
  if (lstat(path.c_str(), &info) != 0) return absl::OkStatus();  // bind tells more
  if (!S_ISSOCK(info.st_mode))
    return absl::AlreadyExistsError(
        absl::StrCat("control socket ", path, ": there is something else at this path; choose another"));
  if (Connect(path).ok())
    return absl::AlreadyExistsError(
        absl::StrCat("control socket ", path, ": another process listens there; choose another path"));
  if (unlink(path.c_str()) != 0 && errno != ENOENT)
    return ErrnoStatus(absl::StrCat("control socket ", path, ": remove the old one"));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<UniqueFd> Listen(const std::string& path) {
  MOULT_ASSIGN_OR_RETURN(const sockaddr_un address, Address(path));
  MOULT_RETURN_IF_ERROR(RemoveStale(path));
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return ErrnoStatus("control socket: socket");
  // bind gives the file the mode of the socket's inode (less the umask), so that no moment is left in which
  // another user could connect.
  if (fchmod(fd.get(), 0600) != 0) return ErrnoStatus("control socket: fchmod");
  if (bind(fd.get(), Generic(address), sizeof(address)) != 0)
    return ErrnoStatus(absl::StrCat("control socket ", path, ": bind"));
  if (listen(fd.get(), kBacklog) != 0) return ErrnoStatus(absl::StrCat("control socket ", path, ": listen"));
  return fd;
}

absl::StatusOr<UniqueFd> Accept(int listener) {
  UniqueFd client(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!client.valid()) {
    if (errno == EMFILE || errno == ENFILE) return ErrnoStatus("control socket: accept");
    return client;
  }
  ucred peer{};
  socklen_t size = sizeof(peer);
  if (getsockopt(client.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
    return ErrnoStatus("control socket: SO_PEERCRED");
  if (peer.uid != 0 && peer.uid != geteuid()) {
    const absl::Status refused = absl::PermissionDeniedError(absl::StrCat(
        "control socket: user ", peer.uid, " (pid ", peer.pid, ") is neither root nor user ", geteuid()));
    const std::string line = ErrorLine(nullptr, refused);
    (void)!send(client.get(), line.data(), line.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    return refused;
  }
  return client;
}

absl::StatusOr<UniqueFd> Connect(const std::string& path) {
  MOULT_ASSIGN_OR_RETURN(const sockaddr_un address, Address(path));
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoStatus("control socket: socket");
  if (connect(fd.get(), Generic(address), sizeof(address)) == 0) return fd;
  if (errno == ECONNREFUSED)
    return absl::UnavailableError(
        absl::StrCat("control socket ", path, ": nobody listens there (ECONNREFUSED); is the VM running?"));
  return ErrnoStatus(absl::StrCat("control socket ", path, ": connect"));
}

}  // namespace moult::control
