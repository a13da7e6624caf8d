// SPDX-License-Identifier: Apache-2.0
#include "rpc/streamed_pages.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>

#include "moult/protocol/digest.h"
#include "moult/protocol/limits.h"

namespace moult::agent {

absl::StatusOr<StreamedPages> StreamedPages::Receive(Worker& worker, uint64_t size) {
  StreamedPages pages(UniqueFd(memfd_create("moult-pages", MFD_CLOEXEC)), size);
  absl::Status failed;
  if (!pages.fd_.valid()) failed = ErrnoStatus("memfd_create for streamed pages");
  std::vector<std::byte> piece(std::min<uint64_t>(rpc::kMaxDataFrame, size));
  for (uint64_t at = 0; at < size;) {
    const absl::Span<std::byte> part(piece.data(), std::min<uint64_t>(piece.size(), size - at));
    MOULT_RETURN_IF_ERROR(Annotate(worker.channel.ReceiveData(worker.call, part, worker.deadline),
                                   absl::StrCat("receive pages, from byte ", at, " of ", size, " on")));
    if (failed.ok() && pwrite(pages.fd(), part.data(), part.size(), static_cast<off_t>(at)) !=
                           static_cast<ssize_t>(part.size()))
      failed = ErrnoStatus("keep streamed pages in memory");
    at += part.size();
  }
  worker.data_due = false;
  MOULT_RETURN_IF_ERROR(failed);
  return pages;
}

StreamedPages::~StreamedPages() {
  if (fd_.valid()) WipeFile(fd(), size_);
}

absl::Status StreamedPages::Verify(const image::ManifestT& manifest) const {
  std::vector<std::byte> buffer(std::min(size_, image::kPagesChunk));
  const image::PageLeaves leaves = {manifest.format_version, manifest.pages_leaves};
  for (uint64_t at = 0; at < size_; at += image::kPagesChunk) {
    const auto chunk = absl::MakeSpan(buffer).first(std::min(size_ - at, image::kPagesChunk));
    if (pread(fd(), chunk.data(), chunk.size(), static_cast<off_t>(at)) != static_cast<ssize_t>(chunk.size()))
      return ErrnoStatus("read streamed pages back");
    if (!leaves.Match(chunk, at / image::kPagesChunk)) {
      return absl::DataLossError(
          absl::StrCat("pages: chunk ", at / image::kPagesChunk, " does not match its digest in the manifest"));
    }
  }
  return absl::OkStatus();
}

void WipeFile(int fd, uint64_t size) {
  static constexpr std::array<char, 65536> kZeros{};
  for (uint64_t at = 0; at < size; at += kZeros.size()) {
    (void)!pwrite(fd, kZeros.data(), std::min<uint64_t>(kZeros.size(), size - at), static_cast<off_t>(at));
  }
}

void WipeFolder(const std::string& path) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(path, error)) {
    const UniqueFd fd(open(entry.path().c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    struct stat st {};
    if (fd.valid() && fstat(fd.get(), &st) == 0 && S_ISREG(st.st_mode))
      WipeFile(fd.get(), static_cast<uint64_t>(st.st_size));
  }
  std::filesystem::remove_all(path, error);
}

}  // namespace moult::agent
