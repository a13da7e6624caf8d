// SPDX-License-Identifier: Apache-2.0
#include "resource/unix_socket/queue.h"

#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "image/capture_context.h"
#include "moult/base/status.h"

namespace moult::engine {
namespace {

// Peeks from the beginning with an offset that moves on by itself, and puts the process's own offset back.
class PeekOffset {
 public:
  explicit PeekOffset(int fd) : fd_(fd) {}
  absl::Status Begin() {
    socklen_t size = sizeof(before_);
    if (getsockopt(fd_, SOL_SOCKET, SO_PEEK_OFF, &before_, &size) < 0) return ErrnoStatus("get SO_PEEK_OFF");
    const int start = 0;
    if (setsockopt(fd_, SOL_SOCKET, SO_PEEK_OFF, &start, sizeof(start)) < 0) return ErrnoStatus("set SO_PEEK_OFF");
    set_ = true;
    return absl::OkStatus();
  }
  ~PeekOffset() {
    if (set_) setsockopt(fd_, SOL_SOCKET, SO_PEEK_OFF, &before_, sizeof(before_));
  }
  PeekOffset(const PeekOffset&) = delete;
  PeekOffset& operator=(const PeekOffset&) = delete;

 private:
  int fd_;
  int before_ = -1;
  bool set_ = false;
};

}  // namespace

absl::Status CaptureQueue(int fd, image::UnixSocketT& resource) {
  pollfd poller{fd, POLLIN | POLLPRI, 0};
  if (poll(&poller, 1, 0) < 0) return ErrnoStatus("poll");
  if ((poller.revents & POLLPRI) != 0) {
    return Refuse("urgent data (MSG_OOB) waits in it to be read", "let the program read it first");
  }
  if ((poller.revents & POLLIN) == 0) return absl::OkStatus();
  const bool stream = resource.type == SOCK_STREAM;
  const bool datagram = resource.type == SOCK_DGRAM;
  // Any receiving call on these would take a pending error away from the process.
  if ((poller.revents & POLLERR) != 0 && !stream) {
    return absl::UnavailableError("an error waits in it to be read; let the program read it and try again");
  }
  int queued = 0;  // all bytes; for SOCK_DGRAM those of the first datagram
  if (ioctl(fd, SIOCINQ, &queued) < 0) return ErrnoStatus("SIOCINQ");
  if (queued == 0 && !datagram) return absl::OkStatus();  // end of file
  PeekOffset offset(fd);
  MOULT_RETURN_IF_ERROR(offset.Begin());
  std::vector<uint8_t> buffer(std::max<size_t>(256 * 1024, static_cast<size_t>(queued)));
  // For connections no call comes after the last byte: it would meet the end, and an error there.
  for (ssize_t done = 0; datagram || done < queued;) {
    sockaddr_un from{};
    iovec part{buffer.data(), buffer.size()};
    msghdr header{};
    header.msg_name = &from;
    header.msg_namelen = sizeof(from);
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    const ssize_t count = recvmsg(fd, &header, MSG_PEEK | MSG_DONTWAIT | (stream ? 0 : MSG_TRUNC));
    if (count < 0 && errno == EAGAIN) break;
    if (count < 0) return ErrnoStatus("look into its queue (MSG_PEEK)");
    if (count == 0 && stream) break;
    if (static_cast<size_t>(count) > buffer.size()) {
      return absl::ResourceExhaustedError(absl::StrCat("a queued message of ", count, " bytes is too long to be saved"));
    }
    auto message = std::make_unique<image::UnixMessageT>();
    message->data.assign(buffer.begin(), buffer.begin() + count);
    constexpr size_t kStart = offsetof(sockaddr_un, sun_path);
    if (datagram && header.msg_namelen > kStart) {
      const auto* bytes = reinterpret_cast<const uint8_t*>(&from);
      message->sender.assign(bytes + kStart, bytes + std::min<size_t>(header.msg_namelen, sizeof(from)));
    }
    resource.queue.push_back(std::move(message));
    done += count;
  }
  return absl::OkStatus();
}

absl::Status SendMessage(int sender, const image::UnixMessageT& message, const std::vector<uint8_t>& to) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::copy_n(to.begin(), std::min(to.size(), sizeof(address.sun_path)), address.sun_path);
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + to.size());
  for (size_t done = 0;;) {
    const ssize_t count = sendto(sender, message.data.data() + done, message.data.size() - done, MSG_DONTWAIT | MSG_NOSIGNAL,
                                 to.empty() ? nullptr : reinterpret_cast<const sockaddr*>(&address), to.empty() ? 0 : size);
    if (count < 0) {
      const int error = errno;
      const absl::Status status = ErrnoStatus(error, absl::StrCat("queue a message of ", message.data.size(), " bytes"));
      if (error != EAGAIN) return status;
      return WithRemedy(status, "raise /proc/sys/net/unix/max_dgram_qlen or net.core.wmem_max");
    }
    done += static_cast<size_t>(count);
    if (done >= message.data.size()) return absl::OkStatus();
  }
}

absl::Status RaiseSendBuffer(int fd, size_t bytes, int* before) {
  socklen_t size = sizeof(*before);
  if (getsockopt(fd, SOL_SOCKET, SO_SNDBUF, before, &size) < 0) return ErrnoStatus("get SO_SNDBUF");
  // The kernel counts its own bookkeeping, which for small messages is more than their bytes.
  const auto wanted = static_cast<int>(std::min<size_t>(4 * bytes + 65536, 1 << 29));
  if (wanted <= *before) return absl::OkStatus();
  if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &wanted, sizeof(wanted)) == 0) return absl::OkStatus();
  setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &wanted, sizeof(wanted));  // as far as is allowed; sending tells
  return absl::OkStatus();
}

absl::Status ResetSendBuffer(int fd, int before) {
  const int half = before / 2;
  if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &half, sizeof(half)) == 0 ||
      setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &half, sizeof(half)) == 0) {
    return absl::OkStatus();
  }
  return ErrnoStatus("set SO_SNDBUF back");
}

}  // namespace moult::engine
