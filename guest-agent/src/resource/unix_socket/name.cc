// SPDX-License-Identifier: Apache-2.0
#include "resource/unix_socket/name.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "absl/strings/escaping.h"
#include "moult/base/status.h"
#include "moult/base/unique_fd.h"
#include "proc/net_unix.h"
#include "proc/read.h"

namespace moult::engine {
namespace {

struct Address {
  explicit Address(const std::vector<uint8_t>& bytes) {
    value.sun_family = AF_UNIX;
    std::copy_n(bytes.begin(), std::min(bytes.size(), sizeof(value.sun_path)), value.sun_path);
    size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + std::min(bytes.size(), sizeof(value.sun_path)));
  }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&value); }

  sockaddr_un value{};
  socklen_t size;
};

bool IsPath(const std::vector<uint8_t>& address) { return !address.empty() && address[0] != 0; }

std::string PathOf(const std::vector<uint8_t>& address) {
  return {address.begin(), std::find(address.begin(), address.end(), 0)};
}

absl::Status InTheWay(const std::string& path, const std::string& why) {
  return absl::FailedPreconditionError(
      absl::StrCat("bind ", path, ": ", why, "; stop the program that has this name, or move the file away"));
}

// The captured process left its socket file behind, unless somebody has cleaned up.
absl::Status RemoveStale(const std::string& path, const image::UnixSocketT& saved) {
  struct stat st {};
  if (lstat(path.c_str(), &st) < 0) return errno == ENOENT ? absl::OkStatus() : ErrnoStatus(absl::StrCat("stat ", path));
  if (!S_ISSOCK(st.st_mode)) return InTheWay(path, "a file of another kind is there");
  const UniqueFd probe(socket(AF_UNIX, saved.type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe.valid()) return ErrnoStatus("make a socket");
  const Address address(saved.address);
  if (connect(probe.get(), address.get(), address.size) == 0) return InTheWay(path, "another process serves it");
  // A socket of another type (EPROTOTYPE) or a full one is alive. One that refuses may be nobody's any more, or
  // bound and not listening yet: the kernel's list of names tells.
  if (errno != ECONNREFUSED) return InTheWay(path, absl::StrCat("another process has it (", ErrnoName(errno), ")"));
  MOULT_ASSIGN_OR_RETURN(const std::string text, proc::ReadFile("/proc/net/unix"));
  MOULT_ASSIGN_OR_RETURN(const auto sockets, proc::ParseNetUnix(text));
  const bool held = std::any_of(sockets.begin(), sockets.end(), [&](const proc::UnixSocketInfo& socket) { return socket.path == path; });
  if (held) return InTheWay(path, "another process has bound it");
  if (unlink(path.c_str()) < 0) return ErrnoStatus(absl::StrCat("remove the stale socket ", path));
  return absl::OkStatus();
}

absl::Status BindHere(int fd, const image::UnixSocketT& saved) {
  const std::string path = PathOf(saved.address);
  const bool is_path = IsPath(saved.address);
  if (is_path) MOULT_RETURN_IF_ERROR(RemoveStale(path, saved));
  const Address address(saved.address);
  if (bind(fd, address.get(), address.size) < 0) {
    if (errno == EADDRINUSE) return InTheWay(FormatUnixAddress(saved.address), "the name is in use");
    return ErrnoStatus(absl::StrCat("bind ", FormatUnixAddress(saved.address)));
  }
  if (!is_path) return absl::OkStatus();
  struct stat st {};
  if (lstat(path.c_str(), &st) < 0) return ErrnoStatus(absl::StrCat("stat ", path));
  if ((st.st_uid != saved.uid || st.st_gid != saved.gid) && lchown(path.c_str(), saved.uid, saved.gid) < 0) {
    return ErrnoStatus(absl::StrCat("set the owner of ", path));
  }
  if ((st.st_mode & 07777) != saved.mode && chmod(path.c_str(), saved.mode) < 0) {
    return ErrnoStatus(absl::StrCat("set the mode of ", path));
  }
  return absl::OkStatus();
}

}  // namespace

std::string FormatUnixAddress(const std::vector<uint8_t>& address) {
  if (IsPath(address)) return PathOf(address);
  if (address.empty()) return "(no name)";
  const std::string name(address.begin() + 1, address.end());
  return absl::StrCat("@", absl::CEscape(name));
}

absl::Status WithWorkingDirectory(const std::vector<uint8_t>& address, const std::string& cwd,
                                  const std::function<absl::Status()>& body) {
  if (!IsPath(address) || address[0] == '/') return body();
  const UniqueFd before(open(".", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!before.valid()) return ErrnoStatus("open the working directory");
  if (chdir(cwd.c_str()) < 0) return ErrnoStatus(absl::StrCat("chdir ", cwd));
  const absl::Status status = body();
  if (fchdir(before.get()) < 0) return ErrnoStatus("go back to the working directory");
  return status;
}

absl::Status BindName(int fd, const image::UnixSocketT& saved, const std::string& cwd) {
  return WithWorkingDirectory(saved.address, cwd, [&] { return BindHere(fd, saved); });
}

absl::Status ConnectTo(int fd, const std::vector<uint8_t>& name, const std::string& cwd) {
  return WithWorkingDirectory(name, cwd, [&]() -> absl::Status {
    const Address address(name);
    if (connect(fd, address.get(), address.size) == 0) return absl::OkStatus();
    return ErrnoStatus(absl::StrCat("connect to ", FormatUnixAddress(name)));
  });
}

absl::Status ConnectToSocket(int fd, int target) {
  sockaddr_un name{};
  socklen_t size = sizeof(name);
  auto* generic = reinterpret_cast<sockaddr*>(&name);
  if (getsockname(target, generic, &size) < 0) return ErrnoStatus("get the peer's name");
  if (connect(fd, generic, size) < 0) return ErrnoStatus("connect to a peer");
  return absl::OkStatus();
}

}  // namespace moult::engine
