// SPDX-License-Identifier: Apache-2.0
//
// Writes one template folder, all or nothing.
#ifndef MOULT_PROTOCOL_TEMPLATE_WRITER_H_
#define MOULT_PROTOCOL_TEMPLATE_WRITER_H_

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "moult/base/unique_fd.h"
#include "moult/protocol/limits.h"
#include "moult/protocol/schema.h"

namespace moult::image {

class ChunkHasher;
class Staging;

struct WriterOptions {
  // Nameless files until Commit, so that not even SIGKILL leaves anything. Without (or where the file system
  // cannot), a folder DIR.partial-<pid> is there from Create to the end.
  bool nameless_files = true;
  // Hash beside writing, in a thread of its own. Without, Commit hashes.
  bool hash_in_background = true;
  // An older one: of a copy of a template that has it, whose digest is to stay.
  uint32_t format_version = kFormatVersion;
};

// Not thread-safe: one caller at a time. All calls block on the disk. After an error every further call gives
// that error again; destroying the writer then leaves nothing.
class TemplateWriter {
 public:
  // `dir` must be absent (its parent writable) or an empty folder; nothing is visible under `dir` yet.
  // kFailedPrecondition: not a folder, or not empty. kNotFound: no parent. kPermissionDenied.
  static absl::StatusOr<std::unique_ptr<TemplateWriter>> Create(std::string dir, WriterOptions options = {});

  TemplateWriter(const TemplateWriter&) = delete;
  TemplateWriter& operator=(const TemplateWriter&) = delete;
  // Leaves nothing behind unless Commit was OK.
  ~TemplateWriter();

  // Appends whole pages (the lengths' sum is a multiple of 4096; single parts need not be) and returns the
  // offset in `pages` of the first byte. The memory is not used after the call.
  // kResourceExhausted: disk full or quota. kInvalidArgument: not whole pages.
  absl::StatusOr<uint64_t> AppendPages(absl::Span<const struct iovec> parts);

  // Bytes appended so far.
  uint64_t pages_size() const { return size_; }

  // Fills format_version, image, pages, pages_chunk, pages_leaves, user_state_bytes, threads, vmas and fds of
  // the manifest; the caller fills the rest. Writes, syncs and publishes: when OK, `dir` is a whole template
  // on disk, else it is as it was. kFailedPrecondition: image or manifest breaks a rule of the format.
  absl::Status Commit(const ProcessImageT& image, ManifestT manifest);

 private:
  TemplateWriter(std::string dir, std::unique_ptr<Staging> staging, UniqueFd pages, WriterOptions options);
  absl::StatusOr<uint64_t> Append(absl::Span<const struct iovec> parts);
  absl::Status Publish(const ProcessImageT& image, ManifestT* manifest);

  const std::string dir_;
  std::unique_ptr<Staging> staging_;
  UniqueFd pages_;
  const uint32_t format_version_;
  std::unique_ptr<ChunkHasher> hasher_;
  uint64_t size_ = 0;
  absl::Status failed_;
};

}  // namespace moult::image

#endif  // MOULT_PROTOCOL_TEMPLATE_WRITER_H_
