// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "resource/pipe/pipe.h"

namespace moult::engine {
namespace {

absl::Status SetCapacity(int fd, uint32_t capacity) {
  if (fcntl(fd, F_GETPIPE_SZ) == static_cast<int>(capacity)) return absl::OkStatus();
  if (fcntl(fd, F_SETPIPE_SZ, capacity) >= 0) return absl::OkStatus();
  const int error = errno;
  absl::Status status = ErrnoStatus(error, absl::StrCat("set the pipe's capacity to ", capacity));
  if (error != EPERM) return status;
  return WithRemedy(status, "raise /proc/sys/fs/pipe-max-size (and pipe-user-pages-soft)");
}

// `fd` can be written to. `packets`: what O_DIRECT is for pipes.
absl::Status Fill(int fd, const image::PipeBufferT& pipe, bool packets) {
  if (pipe.packets.empty()) return absl::OkStatus();
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK | (packets ? O_DIRECT : 0)) < 0) return ErrnoStatus("F_SETFL");
  for (const auto& packet : pipe.packets) {
    for (size_t done = 0; done < packet->data.size();) {
      const ssize_t count = write(fd, packet->data.data() + done, packet->data.size() - done);
      if (count <= 0) return ErrnoStatus(absl::StrCat("fill the pipe of capacity ", pipe.capacity));
      done += static_cast<size_t>(count);
    }
  }
  if (fcntl(fd, F_SETFL, flags) < 0) return ErrnoStatus("F_SETFL");
  return absl::OkStatus();
}

int AccessMode(const image::PipeEndT& end) {
  if (end.read_end && end.write_end) return O_RDWR;
  return end.write_end ? O_WRONLY : O_RDONLY;
}

struct Ends {
  std::vector<uint32_t> indices;  // open files, rising
  bool any_writer = false;
  bool packets = false;
};

Ends FindEnds(const RestoreContext& context, uint32_t pipe) {
  Ends ends;
  for (size_t i = 0; i < context.image.open_files.size(); ++i) {
    const image::PipeEndT* end = context.image.open_files[i]->resource.AsPipeEnd();
    if (end == nullptr || end->pipe != pipe) continue;
    ends.indices.push_back(static_cast<uint32_t>(i));
    ends.any_writer |= end->write_end;
    ends.packets |= end->write_end && (context.open_file(static_cast<uint32_t>(i)).flags & O_DIRECT) != 0;
  }
  return ends;
}

absl::Status Keep(RestoreContext& context, uint32_t index, UniqueFd fd) {
  MOULT_ASSIGN_OR_RETURN(context.open_files[index], context.MoveUp(std::move(fd)));
  return absl::OkStatus();
}

absl::Status MakeAnonymous(RestoreContext& context, const image::PipeBufferT& pipe, const Ends& ends) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) < 0) return ErrnoStatus("pipe");
  UniqueFd halves[2] = {UniqueFd(fds[0]), UniqueFd(fds[1])};
  MOULT_RETURN_IF_ERROR(SetCapacity(fds[1], pipe.capacity));
  // More than one chunk in the queue also means packets: else they would have been one.
  MOULT_RETURN_IF_ERROR(Fill(fds[1], pipe, ends.packets || pipe.packets.size() > 1));
  // Further descriptions are opened while both halves are there, so that none waits or sees a hang-up that
  // it was not to see; a half that nobody claims closes at the end.
  bool claimed[2] = {false, false};
  std::vector<std::pair<uint32_t, UniqueFd>> made;
  uint32_t claimers[2] = {kNone, kNone};
  for (const uint32_t index : ends.indices) {
    const image::PipeEndT& end = *context.open_file(index).resource.AsPipeEnd();
    const int half = end.write_end ? 1 : 0;
    if (!(end.read_end && end.write_end) && !claimed[half]) {
      claimed[half] = true;
      claimers[half] = index;
      continue;
    }
    UniqueFd fd(open(absl::StrCat("/proc/self/fd/", fds[half]).c_str(), AccessMode(end) | O_NONBLOCK | O_CLOEXEC));
    if (!fd.valid()) return ErrnoStatus("open the pipe once more");
    made.emplace_back(index, std::move(fd));
  }
  for (auto& [index, fd] : made) MOULT_RETURN_IF_ERROR(Keep(context, index, std::move(fd)));
  for (int half = 0; half < 2; ++half) {
    if (claimed[half]) MOULT_RETURN_IF_ERROR(Keep(context, claimers[half], std::move(halves[half])));
  }
  return absl::OkStatus();
}

absl::Status MakeFifo(RestoreContext& context, const image::PipeBufferT& pipe, const Ends& ends) {
  const image::FileRefT& file = context.file(pipe.fifo);
  // With both ends held open no other open waits. A lone reader is opened without it, so that it does not
  // take our closing for that of a writer that has gone.
  UniqueFd both;
  if (ends.any_writer || !pipe.packets.empty()) {
    MOULT_ASSIGN_OR_RETURN(both, OpenFileRef(file, O_RDWR | O_NONBLOCK));
    int queued = 0;
    if (ioctl(both.get(), FIONREAD, &queued) < 0) return ErrnoStatus("FIONREAD");
    // A FIFO belongs to all who know its name: what another process left in it, or the captured process that
    // still runs, is not doubled.
    if (queued == 0) {
      MOULT_RETURN_IF_ERROR(SetCapacity(both.get(), pipe.capacity));
      MOULT_RETURN_IF_ERROR(Fill(both.get(), pipe, ends.packets || pipe.packets.size() > 1));
    }
  }
  for (const uint32_t index : ends.indices) {
    const image::PipeEndT& end = *context.open_file(index).resource.AsPipeEnd();
    MOULT_ASSIGN_OR_RETURN(UniqueFd fd, OpenFileRef(file, AccessMode(end) | O_NONBLOCK));
    if (!both.valid()) MOULT_RETURN_IF_ERROR(SetCapacity(fd.get(), pipe.capacity));
    MOULT_RETURN_IF_ERROR(Keep(context, index, std::move(fd)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<UniqueFd> RestorePipe(RestoreContext& context, uint32_t index) {
  const uint32_t number = context.open_file(index).resource.AsPipeEnd()->pipe;
  const image::PipeBufferT& pipe = *context.image.pipes[number];
  const Ends ends = FindEnds(context, number);
  if (context.open_files.size() < context.image.open_files.size()) {
    context.open_files.resize(context.image.open_files.size());
  }
  MOULT_RETURN_IF_ERROR(pipe.fifo == kNone ? MakeAnonymous(context, pipe, ends) : MakeFifo(context, pipe, ends));
  return std::move(context.open_files[index]);
}

}  // namespace moult::engine
