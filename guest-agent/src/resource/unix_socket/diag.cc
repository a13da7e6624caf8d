// SPDX-License-Identifier: Apache-2.0
#include "resource/unix_socket/diag.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <sys/socket.h>

#include <cstring>

#include "moult/base/status.h"

namespace moult::engine {
namespace {

struct Request {
  nlmsghdr header;
  unix_diag_req body;
};

template <typename T>
T Get(const rtattr* attribute) {
  T value{};
  std::memcpy(&value, RTA_DATA(attribute), std::min(sizeof(T), static_cast<size_t>(RTA_PAYLOAD(attribute))));
  return value;
}

void Apply(const rtattr* attribute, UnixDiag& result) {
  switch (attribute->rta_type) {
    case UNIX_DIAG_PEER:
      result.peer_inode = Get<uint32_t>(attribute);
      break;
    case UNIX_DIAG_ICONS:
      result.pending.resize(RTA_PAYLOAD(attribute) / sizeof(uint32_t));
      // An empty list has no address to copy to.
      if (!result.pending.empty()) {
        std::memcpy(result.pending.data(), RTA_DATA(attribute), result.pending.size() * sizeof(uint32_t));
      }
      break;
    case UNIX_DIAG_RQLEN:
      result.backlog = Get<unix_diag_rqlen>(attribute).udiag_wqueue;
      break;
    case UNIX_DIAG_SHUTDOWN:
      result.shutdown = Get<uint8_t>(attribute);
      break;
    case UNIX_DIAG_VFS: {
      const auto file = Get<unix_diag_vfs>(attribute);
      result.file_inode = file.udiag_vfs_ino;
      result.file_device = file.udiag_vfs_dev;
      break;
    }
    default:
      break;
  }
}

absl::Status QueryStatus(int error) {
  if (error <= 0) return absl::InternalError("an answer of sock_diag that says nothing");
  if (error != ENOENT) return ErrnoStatus(error, "ask the kernel for the unix socket's peer (sock_diag)");
  return absl::FailedPreconditionError(
      "the kernel does not tell the unix socket's peer; load the module unix_diag (modprobe unix_diag), "
      "and run in the network namespace of the process");
}

}  // namespace

absl::StatusOr<UnixDiag> ParseUnixDiag(absl::Span<const char> answer) {
  // SAFETY: aligned by the caller; NLMSG_OK and the checks below keep every access inside of `answer`.
  const auto* header = reinterpret_cast<const nlmsghdr*>(answer.data());
  const auto size = static_cast<int64_t>(answer.size());
  if (size < int64_t{NLMSG_HDRLEN} || header->nlmsg_len < sizeof(nlmsghdr) || header->nlmsg_len > answer.size())
    return absl::InternalError("malformed answer of sock_diag");
  if (header->nlmsg_type == NLMSG_ERROR) {
    if (header->nlmsg_len < NLMSG_LENGTH(sizeof(nlmsgerr))) return absl::InternalError("short answer of sock_diag");
    return QueryStatus(-static_cast<const nlmsgerr*>(NLMSG_DATA(header))->error);
  }
  if (header->nlmsg_len < NLMSG_LENGTH(sizeof(unix_diag_msg))) return absl::InternalError("short answer of sock_diag");
  const auto* message = static_cast<const unix_diag_msg*>(NLMSG_DATA(header));
  UnixDiag result;
  result.state = message->udiag_state;
  auto left = static_cast<int>(header->nlmsg_len - NLMSG_LENGTH(sizeof(*message)));
  // RTA_NEXT rounds up to 4, so that `left` may end below zero.
  for (auto* attribute = reinterpret_cast<const rtattr*>(message + 1);
       left >= static_cast<int>(sizeof(rtattr)) && RTA_OK(attribute, left); attribute = RTA_NEXT(attribute, left)) {
    Apply(attribute, result);
  }
  return result;
}

absl::StatusOr<UnixDiagSocket> UnixDiagSocket::Open() {
  UniqueFd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!fd.valid()) return ErrnoStatus("open a NETLINK_SOCK_DIAG socket");
  return UnixDiagSocket(std::move(fd));
}

absl::StatusOr<UnixDiag> UnixDiagSocket::Query(uint32_t inode) {
  Request request{};
  request.header.nlmsg_len = sizeof(request);
  request.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  request.header.nlmsg_flags = NLM_F_REQUEST;
  request.body.sdiag_family = AF_UNIX;
  request.body.udiag_states = ~0u;
  request.body.udiag_ino = inode;
  request.body.udiag_show = UDIAG_SHOW_VFS | UDIAG_SHOW_PEER | UDIAG_SHOW_ICONS | UDIAG_SHOW_RQLEN;
  request.body.udiag_cookie[0] = ~0u;
  request.body.udiag_cookie[1] = ~0u;
  if (send(fd_.get(), &request, sizeof(request), 0) < 0) return ErrnoStatus("ask for a unix socket (sock_diag)");
  // A listening socket's answer has four bytes for each waiting connection (at most 4096 by default).
  std::vector<char> answer(64 * 1024);
  const ssize_t size = recv(fd_.get(), answer.data(), answer.size(), MSG_TRUNC);
  if (size < 0) return ErrnoStatus("read the answer of sock_diag");
  if (static_cast<size_t>(size) > answer.size()) return absl::InternalError("the answer of sock_diag is too long");
  return ParseUnixDiag({answer.data(), static_cast<size_t>(size)});
}

void LoadUnixDiag() {
  auto diag = UnixDiagSocket::Open();
  if (diag.ok()) (void)diag->Query(0);
}

}  // namespace moult::engine
