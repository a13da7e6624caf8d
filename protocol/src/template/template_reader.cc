// SPDX-License-Identifier: Apache-2.0
#include "moult/protocol/template_reader.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "chunk_hasher.h"
#include "moult/base/quiet_thread.h"
#include "moult/base/status.h"
#include "moult/protocol/digest.h"
#include "moult/protocol/limits.h"
#include "moult/protocol/parse.h"
#include "moult/protocol/validate.h"

namespace moult::image {
namespace {

struct OpenedFile {
  UniqueFd fd;
  uint64_t size;
};

const char* TypeName(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFDIR:
      return "a folder";
    case S_IFIFO:
      return "a FIFO";
    case S_IFLNK:
      return "a symbolic link";
    case S_IFSOCK:
      return "a socket";
    default:
      return "a device";
  }
}

// Opens a regular file, and nothing else: a FIFO would make us wait, a device could act on being opened.
absl::StatusOr<OpenedFile> OpenRegular(int folder, const char* name) {
  struct stat info;
  if (fstatat(folder, name, &info, AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno == ENOENT) return absl::DataLossError(absl::StrCat(name, ": missing"));
    return ErrnoStatus(absl::StrCat(name, ": stat"));
  }
  UniqueFd fd;
  if (S_ISREG(info.st_mode)) {
    fd = UniqueFd(openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    if (!fd.valid()) return ErrnoStatus(absl::StrCat(name, ": open"));
    // Again, because the name may have been given to something else in between.
    if (fstat(fd.get(), &info) != 0) return ErrnoStatus(absl::StrCat(name, ": fstat"));
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::DataLossError(absl::StrCat(name, ": is ", TypeName(info.st_mode), ", not a regular file"));
  }
  return OpenedFile{std::move(fd), static_cast<uint64_t>(info.st_size)};
}

absl::StatusOr<std::string> ReadFile(const OpenedFile& file, uint64_t limit, const char* name) {
  if (file.size > limit) {
    return absl::DataLossError(absl::StrCat(name, ": ", file.size, " bytes, over the limit of ", limit));
  }
  std::string bytes(file.size, '\0');
  MOULT_RETURN_IF_ERROR(
      PreadAll(file.fd.get(), 0, {reinterpret_cast<std::byte*>(bytes.data()), bytes.size()}, name));
  return bytes;
}

absl::Status CheckSize(uint64_t size, const ContentDigestT& expected) {
  if (size == expected.size) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("image: ", size, " bytes, the manifest says ", expected.size));
}

absl::StatusOr<std::string> ReadImage(int folder, const ContentDigestT& expected) {
  MOULT_ASSIGN_OR_RETURN(const OpenedFile file, OpenRegular(folder, kImageFile));
  MOULT_RETURN_IF_ERROR(CheckSize(file.size, expected));
  return ReadFile(file, kMaxImageSize, kImageFile);
}

absl::StatusOr<UniqueFd> OpenPages(int folder, uint64_t size) {
  MOULT_ASSIGN_OR_RETURN(OpenedFile file, OpenRegular(folder, kPagesFile));
  if (file.size != size) {
    return absl::DataLossError(absl::StrCat("pages: ", file.size, " bytes, the manifest says ", size));
  }
  return std::move(file.fd);
}

}  // namespace

struct TemplateReader::Parts {
  std::string manifest_file;
  std::string image_file;
  std::unique_ptr<ManifestT> manifest;
  std::unique_ptr<ProcessImageT> image;
  UniqueFd pages;
};

absl::StatusOr<TemplateReader::Parts> TemplateReader::ReadParts(int folder) {
  Parts parts;
  MOULT_ASSIGN_OR_RETURN(const OpenedFile file, OpenRegular(folder, kManifestFile));
  MOULT_ASSIGN_OR_RETURN(parts.manifest_file,
                         ReadFile(file, kManifestHeaderSize + kMaxManifestPayload, kManifestFile));
  MOULT_ASSIGN_OR_RETURN(parts.manifest, ParseManifest(parts.manifest_file));
  MOULT_ASSIGN_OR_RETURN(parts.image_file, ReadImage(folder, *parts.manifest->image));
  MOULT_ASSIGN_OR_RETURN(parts.pages, OpenPages(folder, parts.manifest->pages->size));
  MOULT_RETURN_IF_ERROR(CheckParts(&parts));
  return parts;
}

absl::Status TemplateReader::CheckParts(Parts* parts) {
  const ContentDigestT& expected = *parts->manifest->image;
  MOULT_RETURN_IF_ERROR(CheckSize(parts->image_file.size(), expected));
  const Sha256Digest digest = Sha256Of(parts->image_file);
  if (!std::equal(digest.begin(), digest.end(), expected.sha256.begin(), expected.sha256.end())) {
    return absl::DataLossError("image: does not match its digest in the manifest");
  }
  MOULT_ASSIGN_OR_RETURN(parts->image, ParseImage(parts->image_file));
  MOULT_RETURN_IF_ERROR(ValidateImage(*parts->image, parts->manifest->pages->size));
  return ValidateMatch(*parts->manifest, *parts->image);
}

absl::StatusOr<std::unique_ptr<TemplateReader>> TemplateReader::FromFiles(const std::string& name,
                                                                          std::string manifest_file,
                                                                          std::string image_file, UniqueFd pages) {
  Parts parts;
  parts.manifest_file = std::move(manifest_file);
  parts.image_file = std::move(image_file);
  parts.pages = std::move(pages);
  auto manifest = ParseManifest(parts.manifest_file);
  absl::Status status = manifest.status();
  if (manifest.ok()) {
    parts.manifest = *std::move(manifest);
    status = CheckParts(&parts);
  }
  if (!status.ok()) return Annotate(status, absl::StrCat("read template ", name));
  return std::unique_ptr<TemplateReader>(new TemplateReader(name, std::move(parts)));
}

absl::StatusOr<std::unique_ptr<TemplateReader>> TemplateReader::Open(const std::string& dir) {
  const UniqueFd folder(open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC));
  if (!folder.valid() && (errno == ENOENT || errno == ENOTDIR)) {
    return absl::NotFoundError(absl::StrCat(dir,
                                            " is not a template: ", errno == ENOENT ? "no such" : "not a",
                                            " folder; name a folder that dump made"));
  }
  const std::string context = absl::StrCat("read template ", dir);
  if (!folder.valid()) return ErrnoStatus(absl::StrCat(context, ": open"));
  if (faccessat(folder.get(), kManifestFile, F_OK, AT_SYMLINK_NOFOLLOW) != 0 && errno == ENOENT) {
    return absl::NotFoundError(
        absl::StrCat(dir, " is not a template: no file \"manifest\" in it; name a folder that dump made"));
  }
  auto parts = ReadParts(folder.get());
  if (absl::IsDataLoss(parts.status())) {
    return absl::DataLossError(
        absl::StrCat(context, ": ", parts.status().message(), "; the template is damaged: capture it again"));
  }
  if (!parts.ok()) return Annotate(parts.status(), context);
  return std::unique_ptr<TemplateReader>(new TemplateReader(dir, *std::move(parts)));
}

TemplateReader::TemplateReader(std::string dir, Parts parts)
    : dir_(std::move(dir)),
      manifest_file_(std::move(parts.manifest_file)),
      image_file_(std::move(parts.image_file)),
      manifest_(std::move(parts.manifest)),
      image_(std::move(parts.image)),
      pages_(std::move(parts.pages)) {}

absl::Status TemplateReader::ReadUnchecked(uint64_t offset, absl::Span<std::byte> out) const {
  return Annotate(PreadAll(pages_.get(), offset, out, kPagesFile), absl::StrCat("read template ", dir_));
}

absl::Status TemplateReader::ReadChunk(uint64_t chunk, absl::Span<std::byte> out) const {
  MOULT_RETURN_IF_ERROR(ReadUnchecked(chunk * kPagesChunk, out));
  if (leaves().Match(out, chunk)) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(
      "read template ", dir_, ": pages: chunk ", chunk, " (offset ", chunk * kPagesChunk, ", ", out.size(),
      " bytes) does not match its digest; the template is damaged: capture "
      "it again"));
}

absl::Status TemplateReader::VerifyPages(bool threads) const {
  const uint64_t size = pages_size();
  const uint64_t chunks = (size + kPagesChunk - 1) / kPagesChunk;
  std::atomic<uint64_t> next = 0;
  std::mutex mutex;
  uint64_t first_bad = chunks;
  absl::Status status;
  const auto work = [&] {
    std::vector<std::byte> buffer(std::min(size, kPagesChunk));
    for (uint64_t chunk = next++; chunk < chunks; chunk = next++) {
      const uint64_t length = std::min(kPagesChunk, size - chunk * kPagesChunk);
      const absl::Status one = ReadChunk(chunk, absl::MakeSpan(buffer).first(length));
      if (one.ok()) continue;
      next = chunks;
      const std::lock_guard<std::mutex> lock(mutex);
      if (chunk < first_bad) {
        first_bad = chunk;
        status = one;
      }
      return;
    }
  };
  // Under a few chunks a second thread costs more than it brings.
  std::thread helper;
  if (threads && chunks >= 8 && std::thread::hardware_concurrency() > 1) helper = StartQuietThread(work);
  work();
  if (helper.joinable()) helper.join();
  return status;
}

absl::Status TemplateReader::ReadPages(uint64_t offset, absl::Span<std::byte> out) const {
  const uint64_t size = pages_size();
  if (offset > size || out.size() > size - offset) {
    return absl::OutOfRangeError(absl::StrCat("read template ", dir_, ": pages: ", out.size(),
                                              " bytes at offset ", offset, " are past the end at ", size));
  }
  std::vector<std::byte> buffer;
  while (!out.empty()) {
    const uint64_t chunk = offset / kPagesChunk;
    const uint64_t start = chunk * kPagesChunk;
    const uint64_t length = std::min(kPagesChunk, size - start);
    const uint64_t step = std::min<uint64_t>(out.size(), start + length - offset);
    if (step == length) {
      MOULT_RETURN_IF_ERROR(ReadChunk(chunk, out.first(length)));
    } else {
      buffer.resize(length);
      MOULT_RETURN_IF_ERROR(ReadChunk(chunk, absl::MakeSpan(buffer)));
      std::memcpy(out.data(), buffer.data() + (offset - start), step);
    }
    out.remove_prefix(step);
    offset += step;
  }
  return absl::OkStatus();
}

}  // namespace moult::image
