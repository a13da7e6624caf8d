// SPDX-License-Identifier: Apache-2.0
#include "pager_peer.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

namespace moult::bench {
namespace {

constexpr uint64_t kPiecePages = 256;

using Clock = std::chrono::steady_clock;

double Since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Ends when `ram` is not registered any more and `stop` is readable.
void Answer(int uffd, int stop, const Ram& ram, const std::byte* content) {
  pollfd fds[2] = {{uffd, POLLIN, 0}, {stop, POLLIN, 0}};
  for (;;) {
    uffd_msg message;
    if (read(uffd, &message, sizeof(message)) != static_cast<ssize_t>(sizeof(message))) {
      poll(fds, 2, -1);
      if (fds[1].revents != 0) return;
      continue;
    }
    const uint64_t page = message.arg.pagefault.address & ~(kPageBytes - 1);
    const uint64_t offset = page - reinterpret_cast<uint64_t>(ram.data());
    uffdio_copy copy = {page, reinterpret_cast<uint64_t>(content + offset), kPageBytes, 0, 0};
    // SAFETY: a page of `ram`, which is all that is registered.
    ioctl(uffd, UFFDIO_COPY, &copy);
  }
}

}  // namespace

absl::StatusOr<Ram> Ram::Create(uint64_t bytes) {
  UniqueFd fd(memfd_create("ram", MFD_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus("memfd");
  return On(std::move(fd), bytes);
}

absl::StatusOr<Ram> Ram::On(UniqueFd file, uint64_t bytes) {
  if (ftruncate(file.get(), static_cast<off_t>(bytes)) != 0) return ErrnoStatus("size a file to map");
  void* const at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  if (at == MAP_FAILED) return ErrnoStatus("map a file");
  return Ram(std::move(file), static_cast<std::byte*>(at), bytes);
}

Ram::Ram(Ram&& other) noexcept
    : fd_(std::move(other.fd_)), data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}

Ram::~Ram() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

void Ram::Fill() const {
  auto* const words = reinterpret_cast<uint64_t*>(data_);
  for (uint64_t i = 0; i < bytes_ / 8; ++i) words[i] = i * 0x9e3779b97f4a7c15 + 1;
}

absl::Status Ram::Empty() const {
  if (fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(bytes_)) == 0)
    return absl::OkStatus();
  return ErrnoStatus("punch memfd");
}

absl::Status WithBareFaults(const Ram& ram, const std::byte* content, const std::function<void()>& touch) {
  const UniqueFd uffd(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  if (!uffd.valid()) return ErrnoStatus("userfaultfd");
  uffdio_api api = {UFFD_API, 0, 0};
  if (ioctl(uffd.get(), UFFDIO_API, &api) != 0) return ErrnoStatus("UFFDIO_API");
  uffdio_register request = {
      {reinterpret_cast<uint64_t>(ram.data()), ram.pages() * kPageBytes}, UFFDIO_REGISTER_MODE_MISSING, 0};
  if (ioctl(uffd.get(), UFFDIO_REGISTER, &request) != 0) return ErrnoStatus("UFFDIO_REGISTER");
  const UniqueFd stop(eventfd(0, EFD_CLOEXEC));
  std::thread answering([&] { Answer(uffd.get(), stop.get(), ram, content); });
  touch();
  const uint64_t one = 1;
  (void)!write(stop.get(), &one, sizeof(one));
  answering.join();
  return absl::OkStatus();
}

absl::StatusOr<double> CopyOut(const Ram& ram, absl::Span<const uint64_t> order, int file) {
  std::vector<std::byte> buffer(kPiecePages * kPageBytes);
  const Clock::time_point start = Clock::now();
  for (uint64_t first = 0; first < order.size(); first += kPiecePages) {
    const auto piece = order.subspan(first, kPiecePages);
    for (size_t i = 0; i < piece.size(); ++i)
      std::memcpy(buffer.data() + i * kPageBytes, ram.page(piece[i]), kPageBytes);
    const size_t bytes = piece.size() * kPageBytes;
    if (pwrite(file, buffer.data(), bytes, static_cast<off_t>(first * kPageBytes)) !=
        static_cast<ssize_t>(bytes))
      return ErrnoStatus("write the peer's file");
  }
  return Since(start);
}

absl::StatusOr<double> CopyToMapping(const Ram& ram, absl::Span<const uint64_t> order, const Ram& file) {
  const Clock::time_point start = Clock::now();
  for (uint64_t first = 0; first < order.size(); first += kPiecePages) {
    const auto piece = order.subspan(first, kPiecePages);
    // A fault for each page would take longer, and end us with SIGBUS where there is no room.
    if (madvise(file.page(first), piece.size() * kPageBytes, MADV_POPULATE_WRITE) != 0)
      return ErrnoStatus("populate the mapping of the peer's file");
    for (size_t i = 0; i < piece.size(); ++i)
      std::memcpy(file.page(first + i), ram.page(piece[i]), kPageBytes);
  }
  return Since(start);
}

absl::StatusOr<double> CopyIn(const Ram& ram, absl::Span<const uint64_t> order, int file) {
  std::vector<std::byte> buffer(kPiecePages * kPageBytes);
  const Clock::time_point start = Clock::now();
  for (uint64_t first = 0; first < order.size(); first += kPiecePages) {
    const auto piece = order.subspan(first, kPiecePages);
    const size_t bytes = piece.size() * kPageBytes;
    if (pread(file, buffer.data(), bytes, static_cast<off_t>(first * kPageBytes)) !=
        static_cast<ssize_t>(bytes))
      return ErrnoStatus("read the peer's file");
    for (size_t i = 0; i < piece.size(); ++i)
      std::memcpy(ram.page(piece[i]), buffer.data() + i * kPageBytes, kPageBytes);
  }
  return Since(start);
}

}  // namespace moult::bench
