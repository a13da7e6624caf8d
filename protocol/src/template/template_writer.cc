// SPDX-License-Identifier: Apache-2.0
#include "moult/protocol/template_writer.h"

#include <limits.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "chunk_hasher.h"
#include "moult/base/status.h"
#include "moult/protocol/digest.h"
#include "moult/protocol/limits.h"
#include "moult/protocol/parse.h"
#include "moult/protocol/validate.h"
#include "staging.h"

namespace moult::image {
namespace {

// A disk that is full reaches us as a handful of errno values, and in all of them the user can do the same.
absl::Status WriteError(int error, const std::string& what) {
  if (error != ENOSPC && error != EDQUOT && error != EFBIG) return ErrnoStatus(error, what);
  return absl::ResourceExhaustedError(
      absl::StrCat(WithoutRemedy(ErrnoStatus(error, what)),
                   "; nothing was kept: free space or quota there, or name a folder on another file system"));
}

// Of what says that the disk is full, and no more.
absl::Status WithFolderRemedy(const absl::Status& status) {
  const absl::string_view message = status.message();
  const bool full = absl::EndsWith(message, ErrnoRemedy(ENOSPC)) || absl::EndsWith(message, ErrnoRemedy(EDQUOT));
  return full ? WithRemedy(status, "nothing was kept: free space there, or name another folder") : status;
}

absl::Status WriteAll(int fd, uint64_t offset, std::vector<struct iovec> parts, const char* name) {
  size_t first = 0;
  for (;;) {
    while (first < parts.size() && parts[first].iov_len == 0) ++first;
    if (first == parts.size()) return absl::OkStatus();
    const int count = static_cast<int>(std::min<size_t>(parts.size() - first, IOV_MAX));
    const ssize_t n = pwritev(fd, &parts[first], count, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return WriteError(errno, absl::StrCat(name, ": write at offset ", offset));
    if (n == 0) return WriteError(ENOSPC, absl::StrCat(name, ": write at offset ", offset));
    offset += static_cast<uint64_t>(n);
    for (size_t left = static_cast<size_t>(n); left > 0;) {
      struct iovec& part = parts[first];
      const size_t step = std::min(left, part.iov_len);
      part.iov_base = static_cast<char*>(part.iov_base) + step;
      part.iov_len -= step;
      left -= step;
      if (part.iov_len == 0) ++first;
    }
  }
}

absl::Status WriteString(Staging* staging, const char* name, const std::string& content) {
  MOULT_ASSIGN_OR_RETURN(const UniqueFd fd, staging->CreateFile(name));
  return WriteAll(fd.get(), 0, {{const_cast<char*>(content.data()), content.size()}}, name);
}

std::unique_ptr<ContentDigestT> MakeDigest(uint64_t size, const Sha256Digest& digest) {
  auto result = std::make_unique<ContentDigestT>();
  result->size = size;
  result->sha256.assign(digest.begin(), digest.end());
  return result;
}

// A rule of the format that a running process breaks is not damage: the process cannot be captured.
absl::Status AsRefusal(const absl::Status& status) {
  if (!absl::IsDataLoss(status)) return status;
  return absl::FailedPreconditionError(
      absl::StrCat("the format cannot hold this: ", status.message(), "; nothing was written"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<TemplateWriter>> TemplateWriter::Create(std::string dir,
                                                                       WriterOptions options) {
  const std::string context = absl::StrCat("write template ", dir);
  auto staging = Staging::Open(dir, options.nameless_files);
  if (!staging.ok()) return Annotate(staging.status(), context);
  auto pages = (*staging)->CreateFile(kPagesFile);
  if (!pages.ok()) return Annotate(WithFolderRemedy(pages.status()), context);
  return std::unique_ptr<TemplateWriter>(
      new TemplateWriter(std::move(dir), *std::move(staging), *std::move(pages), options));
}

TemplateWriter::TemplateWriter(std::string dir, std::unique_ptr<Staging> staging, UniqueFd pages,
                               WriterOptions options)
    : dir_(std::move(dir)),
      staging_(std::move(staging)),
      pages_(std::move(pages)),
      format_version_(options.format_version),
      hasher_(std::make_unique<ChunkHasher>(pages_.get(), format_version_, options.hash_in_background)) {}

TemplateWriter::~TemplateWriter() = default;

absl::StatusOr<uint64_t> TemplateWriter::AppendPages(absl::Span<const struct iovec> parts) {
  MOULT_RETURN_IF_ERROR(failed_);
  absl::StatusOr<uint64_t> result = Append(parts);
  if (!result.ok()) failed_ = Annotate(result.status(), absl::StrCat("write template ", dir_));
  MOULT_RETURN_IF_ERROR(failed_);
  return result;
}

absl::StatusOr<uint64_t> TemplateWriter::Append(absl::Span<const struct iovec> parts) {
  uint64_t length = 0;
  for (const struct iovec& part : parts) {
    if (part.iov_len > kMaxPagesSize - length) return absl::ResourceExhaustedError("pages: over the limit");
    length += part.iov_len;
  }
  if (length % kPageSize != 0) {
    return absl::InvalidArgumentError(absl::StrCat("pages: append ", length, " bytes: not whole pages"));
  }
  if (length > kMaxPagesSize - size_) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "pages: over ", kMaxPagesSize, " bytes, which is the format's limit; shrink the process"));
  }
  MOULT_RETURN_IF_ERROR(WriteAll(pages_.get(), size_, {parts.begin(), parts.end()}, kPagesFile));
  const uint64_t offset = size_;
  size_ += length;
  hasher_->Advance(size_);
  return offset;
}

absl::Status TemplateWriter::Commit(const ProcessImageT& image, ManifestT manifest) {
  MOULT_RETURN_IF_ERROR(failed_);
  const absl::Status status = Publish(image, &manifest);
  // Either way this writer has done its work; a second Commit must not publish twice.
  failed_ = status.ok() ? absl::FailedPreconditionError("the template is written already")
                        : Annotate(WithFolderRemedy(status), absl::StrCat("write template ", dir_));
  if (status.ok()) return status;
  return failed_;
}

absl::Status TemplateWriter::Publish(const ProcessImageT& image, ManifestT* manifest) {
  // Before serializing, which aborts on a missing part, and so that nothing is published that Open refuses.
  MOULT_RETURN_IF_ERROR(AsRefusal(ValidateImage(image, size_)));
  const std::string image_bytes = SerializeImage(image);
  MOULT_ASSIGN_OR_RETURN(const std::vector<Sha256Digest> leaves, hasher_->Finish(size_));

  const ProcessT& process = *image.processes[0];
  manifest->format_version = format_version_;
  manifest->image = MakeDigest(image_bytes.size(), Sha256Of(image_bytes));
  manifest->pages = MakeDigest(size_, TreeRoot(leaves));
  manifest->pages_chunk = static_cast<uint32_t>(kPagesChunk);
  manifest->pages_leaves.resize(leaves.size() * sizeof(Sha256Digest));
  if (!leaves.empty()) {
    std::memcpy(manifest->pages_leaves.data(), leaves.data(), manifest->pages_leaves.size());
  }
  manifest->user_state_bytes = 0;
  for (const PageRun& run : process.memory->runs) manifest->user_state_bytes += run.length();
  manifest->threads = static_cast<uint32_t>(process.threads.size());
  manifest->vmas = static_cast<uint32_t>(process.memory->vmas.size());
  manifest->fds = static_cast<uint32_t>(process.fds.size());
  MOULT_RETURN_IF_ERROR(AsRefusal(ValidateManifest(*manifest)));
  if (image_bytes.size() > kMaxImageSize) {
    return AsRefusal(
        absl::DataLossError(absl::StrCat("image: ", image_bytes.size(), " bytes, over the limit")));
  }

  MOULT_RETURN_IF_ERROR(WriteString(staging_.get(), kImageFile, image_bytes));
  MOULT_RETURN_IF_ERROR(WriteString(staging_.get(), kManifestFile,
                                    EncodeManifestFile(SerializeManifest(*manifest), format_version_)));
  return staging_->Publish();
}

}  // namespace moult::image
