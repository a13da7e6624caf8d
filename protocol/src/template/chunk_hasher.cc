// SPDX-License-Identifier: Apache-2.0
#include "chunk_hasher.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "moult/base/quiet_thread.h"
#include "moult/base/status.h"
#include "moult/protocol/limits.h"

namespace moult::image {

absl::Status PreadAll(int fd, uint64_t offset, absl::Span<std::byte> out, const char* name) {
  while (!out.empty()) {
    const ssize_t n = pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EIO) {
      return absl::DataLossError(absl::StrCat(name, ": pread at offset ", offset, ": EIO (the disk fails); ", ErrnoRemedy(EIO)));
    }
    if (n < 0) return ErrnoStatus(absl::StrCat(name, ": pread at offset ", offset));
    if (n == 0) return absl::DataLossError(absl::StrCat(name, ": ends at offset ", offset));
    out.remove_prefix(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  return absl::OkStatus();
}

ChunkHasher::~ChunkHasher() { Stop(); }

void ChunkHasher::Stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  more_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void ChunkHasher::Advance(uint64_t size) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    final_ = size;
  }
  // Under two chunks a thread costs more than it hides.
  if (background_ && !thread_.joinable() && size >= 2 * kPagesChunk) {
    thread_ = StartQuietThread([this] { Run(); });
  }
  more_.notify_one();
}

bool ChunkHasher::HashNext(std::unique_lock<std::mutex>* lock, std::vector<std::byte>* buffer) {
  const uint64_t start = next_ * kPagesChunk;
  const uint64_t length = std::min(final_ - std::min(final_, start), kPagesChunk);
  if (length == 0 || (length < kPagesChunk && !last_) || !status_.ok()) return false;
  const uint64_t chunk = next_++;
  lock->unlock();
  buffer->resize(kPagesChunk);
  const absl::Span<std::byte> bytes(buffer->data(), length);
  absl::Status read = PreadAll(fd_, start, bytes, kPagesFile);
  const Sha256Digest digest = LeafDigest(format_version_, bytes);
  lock->lock();
  if (!read.ok()) status_ = std::move(read);
  leaves_.push_back({chunk, digest});
  return true;
}

void ChunkHasher::Run() {
  std::vector<std::byte> buffer;
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stop_) {
    if (HashNext(&lock, &buffer)) continue;
    if (last_) return;
    if (!stop_) more_.wait(lock);
  }
}

absl::StatusOr<std::vector<Sha256Digest>> ChunkHasher::Finish(uint64_t size) {
  {
    std::unique_lock<std::mutex> lock(mutex_);
    final_ = size;
    last_ = true;
    more_.notify_all();
    std::vector<std::byte> buffer;
    while (HashNext(&lock, &buffer)) {
    }
  }
  if (thread_.joinable()) thread_.join();
  MOULT_RETURN_IF_ERROR(status_);
  std::vector<Sha256Digest> result(leaves_.size());
  for (const Leaf& leaf : leaves_) result[leaf.chunk] = leaf.digest;
  return result;
}

}  // namespace moult::image
