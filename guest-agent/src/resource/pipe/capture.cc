// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "absl/strings/match.h"
#include "resource/pipe/pipe.h"

namespace moult::engine {
namespace {

image::PipeEndT EndOf(uint32_t flags, uint32_t pipe) {
  image::PipeEndT end;
  end.pipe = pipe;
  end.read_end = (flags & O_ACCMODE) != O_WRONLY;
  end.write_end = (flags & O_ACCMODE) != O_RDONLY;
  return end;
}

// Gives every pipe of the process its index at the first end that is met. What belongs together is known by
// inode only, which the image does not keep.
void IndexPipes(CaptureContext& context) {
  std::map<std::pair<uint64_t, uint64_t>, uint32_t> by_inode;
  for (uint32_t i = 0; i < context.open_files.size(); ++i) {
    const FileIdentity& file = context.open_files[i];
    if (!S_ISFIFO(file.mode) || (file.flags & O_PATH) != 0) continue;
    const auto [it, added] =
        by_inode.try_emplace({file.dev, file.ino}, static_cast<uint32_t>(context.image.pipes.size()));
    if (added) {
      context.image.pipes.push_back(std::make_unique<image::PipeBufferT>());
      context.pipe_ends.emplace_back();
    }
    image::PipeEndT end = EndOf(file.flags, it->second);
    PipeEnds& ends = context.pipe_ends[it->second];
    if (end.read_end && ends.first_reader == kNone) ends.first_reader = i;
    ends.writer |= end.write_end;
    context.image.open_files[i]->resource.Set(std::move(end));
  }
}

// Copies what is queued: tee(2) adds references to the pages and takes nothing from the source.
absl::Status CaptureContent(int fd, image::PipeBufferT& pipe) {
  int queued = 0;
  if (ioctl(fd, FIONREAD, &queued) < 0) return ErrnoStatus("FIONREAD");
  if (queued == 0) return absl::OkStatus();
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0) return ErrnoStatus("make a pipe to copy its content to");
  const UniqueFd from(ends[0]);
  const UniqueFd to(ends[1]);
  // As many slots as the source has, so that one call takes everything.
  if (fcntl(to.get(), F_SETPIPE_SZ, pipe.capacity) < 0) {
    return ErrnoStatus(absl::StrCat("give the copy of its content ", pipe.capacity, " bytes of room"));
  }
  const ssize_t copied = tee(fd, to.get(), static_cast<size_t>(queued), SPLICE_F_NONBLOCK);
  if (copied < 0) return ErrnoStatus("copy its content (tee)");
  if (copied != queued)
    return absl::UnavailableError(absl::StrCat("its content changed while it was copied; try again"));
  // A read ends at a packet's end: for a packet pipe, each gives one packet; else one gives everything.
  std::vector<uint8_t> data(static_cast<size_t>(queued));
  for (ssize_t left = copied; left > 0;) {
    const ssize_t count = read(from.get(), data.data(), static_cast<size_t>(left));
    if (count <= 0) return ErrnoStatus("read the copy of its content");
    auto packet = std::make_unique<image::PipePacketT>();
    packet->data.assign(data.begin(), data.begin() + count);
    pipe.packets.push_back(std::move(packet));
    left -= count;
  }
  return absl::OkStatus();
}

// An anonymous pipe of which the process has one kind of end only: the other end is closed, or it is held by
// another process, which this template does not hold.
absl::Status CheckOtherEnd(const OpenDescription& description) {
  pollfd poller{description.fd, POLLIN | POLLOUT, 0};
  if (poll(&poller, 1, 0) < 0) return ErrnoStatus("poll");
  if ((poller.revents & (POLLHUP | POLLERR)) != 0) return absl::OkStatus();
  return Refuse("its other end belongs to another process",
                "start the program with this descriptor redirected to a file, /dev/null or a FIFO");
}

}  // namespace

bool MatchesPipe(const OpenDescription& description) {
  return S_ISFIFO(description.st.st_mode) && (description.flags & O_PATH) == 0;
}

absl::Status CapturePipe(CaptureContext& context, const OpenDescription& description,
                         image::OpenFileT& file) {
  if (file.resource.AsPipeEnd() == nullptr) IndexPipes(context);
  const image::PipeEndT* end = file.resource.AsPipeEnd();
  if (end == nullptr) return absl::UnavailableError("the descriptor changed meanwhile; try again");
  image::PipeBufferT& pipe = *context.image.pipes[end->pipe];
  const bool anonymous = absl::StartsWith(description.link, "pipe:[");
  if (!anonymous && pipe.fifo == kNone) {
    MOULT_ASSIGN_OR_RETURN(
        pipe.fifo, context.files.Add(description.link, description.st, image::FileContent::Any, "FIFO"));
  }
  const int capacity = fcntl(description.fd, F_GETPIPE_SZ);
  if (capacity < 0) return ErrnoStatus("F_GETPIPE_SZ");
  pipe.capacity = static_cast<uint32_t>(capacity);
  const PipeEnds& ends = context.pipe_ends[end->pipe];
  if (anonymous && (ends.first_reader == kNone || !ends.writer))
    MOULT_RETURN_IF_ERROR(CheckOtherEnd(description));
  // Without a reader here, the content is not this process's: either nobody's, or a FIFO's reader's
  // elsewhere.
  if (ends.first_reader == description.index) return CaptureContent(description.fd, pipe);
  return absl::OkStatus();
}

}  // namespace moult::engine
