// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <map>
#include <set>

#include "resource/inet_socket/socket_options.h"
#include "resource/unix_socket/diag.h"
#include "resource/unix_socket/queue.h"
#include "resource/unix_socket/unix_socket.h"

namespace moult::engine {
namespace {

using NameCall = int (*)(int, sockaddr*, socklen_t*);

// sun_path bytes; empty without an address, or when not connected.
std::vector<uint8_t> AddressOf(NameCall call, int fd) {
  sockaddr_un address{};
  socklen_t size = sizeof(address);
  constexpr size_t kStart = offsetof(sockaddr_un, sun_path);
  if (call(fd, reinterpret_cast<sockaddr*>(&address), &size) < 0 || size <= kStart) return {};
  const auto* bytes = reinterpret_cast<const uint8_t*>(&address);
  return {bytes + kStart, bytes + std::min<size_t>(size, sizeof(address))};
}

struct Listed {
  uint32_t open_file;
  uint32_t inode;
  UnixDiag diag;
};

// Lists the process's unix sockets at the first one that is met: who is connected to whom is known by inode
// only, which the image does not keep. Fills type, state, peer, backlog and shutdown of each.
class Index {
 public:
  explicit Index(CaptureContext& context) : context_(context) {}

  absl::Status Build() {
    MOULT_ASSIGN_OR_RETURN(UnixDiagSocket diag, UnixDiagSocket::Open());
    std::set<uint32_t> seen;
    for (const auto& entry : context_.process.fds) {
      if (!seen.insert(entry->open_file).second) continue;
      MOULT_RETURN_IF_ERROR(Annotate(List(*entry, diag), absl::StrCat("fd ", entry->number)));
    }
    for (const Listed& socket : listed_) Connect(socket);
    for (const Listed& socket : listed_) ConnectPending(socket);
    return absl::OkStatus();
  }

 private:
  image::UnixSocketT& At(uint32_t open_file) {
    return *context_.image.open_files[open_file]->resource.AsUnixSocket();
  }

  absl::Status List(const image::FdT& entry, UnixDiagSocket& diag) {
    struct stat st {};
    if (stat(context_.ProcPath(absl::StrCat("fd/", entry.number)).c_str(), &st) < 0) return absl::OkStatus();
    if (!S_ISSOCK(st.st_mode)) return absl::OkStatus();
    const UniqueFd fd(static_cast<int>(syscall(SYS_pidfd_getfd, context_.tracee.pidfd(), entry.number, 0)));
    if (!fd.valid()) return ErrnoStatus("duplicate it");
    if (IntOption(fd.get(), SOL_SOCKET, SO_DOMAIN, -1) != AF_UNIX) return absl::OkStatus();
    Listed listed{entry.open_file, static_cast<uint32_t>(st.st_ino), {}};
    MOULT_ASSIGN_OR_RETURN(listed.diag, diag.Query(listed.inode));
    image::UnixSocketT resource;
    resource.type = IntOption(fd.get(), SOL_SOCKET, SO_TYPE, -1);
    resource.shutdown = listed.diag.shutdown;
    if (listed.diag.state == TCP_LISTEN) {
      resource.state = image::SocketState::Listening;
      resource.backlog = static_cast<int>(listed.diag.backlog);
    }
    context_.image.open_files[entry.open_file]->resource.Set(std::move(resource));
    by_inode_[listed.inode] = entry.open_file;
    listed_.push_back(std::move(listed));
    return absl::OkStatus();
  }

  void Connect(const Listed& socket) {
    if (!socket.diag.peer_inode.has_value()) return;
    image::UnixSocketT& resource = At(socket.open_file);
    resource.state = image::SocketState::Connected;
    if (*socket.diag.peer_inode == 0) return;
    const auto peer = by_inode_.find(*socket.diag.peer_inode);
    if (peer != by_inode_.end()) {
      resource.peer = peer->second;
    } else if (resource.type != SOCK_DGRAM) {
      resource.state = image::SocketState::Closed;
    }
  }

  // A client whose connection nobody has accepted is connected to the listening socket itself.
  void ConnectPending(const Listed& socket) {
    if (socket.diag.state != TCP_LISTEN) return;
    size_t outside = 0;
    for (const uint32_t inode : socket.diag.pending) {
      const auto client = by_inode_.find(inode);
      if (inode != 0 && client != by_inode_.end()) {
        At(client->second).peer = socket.open_file;
      } else {
        ++outside;
      }
    }
    if (outside != 0) {
      context_.Note(absl::StrCat(outside, " connections to a unix socket of the process that were not accepted yet are lost"));
    }
  }

  CaptureContext& context_;
  std::map<uint32_t, uint32_t> by_inode_;
  std::vector<Listed> listed_;
};

// Mode and owner of the socket file, which must be where the address says.
absl::Status CaptureName(const CaptureContext& context, const UnixDiag& diag, image::UnixSocketT& resource) {
  if (resource.address.empty() || resource.address[0] == 0) return absl::OkStatus();
  const std::string path(resource.address.begin(), std::find(resource.address.begin(), resource.address.end(), 0));
  const std::string seen = path[0] == '/' ? absl::StrCat(context.ProcPath("root"), path) : absl::StrCat(context.ProcPath("cwd/"), path);
  struct stat st {};
  const bool there = lstat(seen.c_str(), &st) == 0 && S_ISSOCK(st.st_mode);
  const uint32_t device = major(st.st_dev) << 20 | minor(st.st_dev);
  if (!there || !diag.file_inode.has_value() || static_cast<uint32_t>(st.st_ino) != *diag.file_inode || device != diag.file_device) {
    return Refuse(absl::StrCat("the unix socket's file ", path, " was removed or replaced, or the process has left the directory it is relative to"),
                  "restart the program so that it makes its socket again");
  }
  resource.mode = st.st_mode & 07777;
  resource.uid = st.st_uid;
  resource.gid = st.st_gid;
  return absl::OkStatus();
}

absl::Status CheckPeer(CaptureContext& context, const OpenDescription& description, const UnixDiag& diag, image::UnixSocketT& resource) {
  const bool datagram = resource.type == SOCK_DGRAM;
  if (resource.state == image::SocketState::Closed) {
    context.Note(absl::StrCat("fd ", description.number, ": unix connection to another process comes back closed"));
    return absl::OkStatus();
  }
  if (resource.state != image::SocketState::Connected) return absl::OkStatus();
  if (resource.peer == kNone) {
    if (datagram && diag.peer_inode.value_or(0) != 0) {
      resource.peer_address = AddressOf(getpeername, description.fd);
      if (!resource.peer_address.empty()) return absl::OkStatus();
      return Refuse("the datagram socket's peer belongs to another process and has no address", "close it before the dump");
    }
    if (!datagram && resource.shutdown != 3) {
      return Refuse("the unix connection waits to be accepted by another process", "let it be accepted, or close it");
    }
    return absl::OkStatus();
  }
  const image::UnixSocketT& peer = *context.image.open_files[resource.peer]->resource.AsUnixSocket();
  if (peer.state == image::SocketState::Listening) {
    int sent = 0;
    if (ioctl(description.fd, SIOCOUTQ, &sent) < 0) return ErrnoStatus("SIOCOUTQ");
    if (sent > 0) {
      return absl::UnavailableError(
          "data was sent over a connection that is not accepted yet; let the program accept it and try again");
    }
    // Not an end of a pair: it is made by connecting once more.
    resource.peer_address = AddressOf(getpeername, description.fd);
    resource.peer = kNone;
    return absl::OkStatus();
  }
  if (datagram && peer.peer != description.index) {
    resource.peer_address = AddressOf(getpeername, description.fd);
    if (resource.peer_address.empty()) {
      return Refuse("the datagram socket's peer has no address and is connected elsewhere", "close it before the dump");
    }
  }
  return absl::OkStatus();
}

absl::Status CaptureOptionsOf(int fd, image::UnixSocketT& resource) {
  const UniqueFd fresh(socket(AF_UNIX, resource.type | SOCK_CLOEXEC, 0));
  if (!fresh.valid()) return ErrnoStatus("make a socket to compare with");
  MOULT_RETURN_IF_ERROR(CaptureOptions(fd, fresh.get(), GenericOptions(), resource.options));
  return CaptureFilter(fd, resource.options);
}

}  // namespace

bool MatchesUnixSocket(const OpenDescription& description) {
  return S_ISSOCK(description.st.st_mode) && IntOption(description.fd, SOL_SOCKET, SO_DOMAIN, -1) == AF_UNIX;
}

absl::Status CaptureUnixSocket(CaptureContext& context, const OpenDescription& description, image::OpenFileT& file) {
  if (file.resource.AsUnixSocket() == nullptr) MOULT_RETURN_IF_ERROR(Index(context).Build());
  image::UnixSocketT* resource = file.resource.AsUnixSocket();
  if (resource == nullptr) return absl::UnavailableError("the descriptor changed meanwhile; try again");
  if (description.info.scm_fds.value_or(0) != 0) {
    return Refuse("descriptors are in flight in its queue", "let the program receive them (SCM_RIGHTS) before the dump");
  }
  MOULT_ASSIGN_OR_RETURN(UnixDiagSocket socket, UnixDiagSocket::Open());
  MOULT_ASSIGN_OR_RETURN(const UnixDiag diag, socket.Query(static_cast<uint32_t>(description.st.st_ino)));
  resource->address = AddressOf(getsockname, description.fd);
  const bool owns_name = resource->type == SOCK_DGRAM || resource->state == image::SocketState::Listening ||
                         resource->state == image::SocketState::Unbound;
  if (owns_name) MOULT_RETURN_IF_ERROR(CaptureName(context, diag, *resource));
  if (resource->state == image::SocketState::Unbound && !resource->address.empty()) {
    resource->state = image::SocketState::Bound;
  }
  MOULT_RETURN_IF_ERROR(CheckPeer(context, description, diag, *resource));
  MOULT_RETURN_IF_ERROR(CaptureOptionsOf(description.fd, *resource));
  if (resource->state == image::SocketState::Listening) return absl::OkStatus();
  return CaptureQueue(description.fd, *resource);
}

}  // namespace moult::engine
