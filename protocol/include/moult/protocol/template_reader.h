// SPDX-License-Identifier: Apache-2.0
//
// Reads one template folder and trusts nothing in it.
#ifndef MOULT_PROTOCOL_TEMPLATE_READER_H_
#define MOULT_PROTOCOL_TEMPLATE_READER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "moult/base/unique_fd.h"
#include "moult/protocol/digest.h"
#include "moult/protocol/schema.h"

namespace moult::image {

// Immutable after Open; every method may be called from several threads at once.
class TemplateReader {
 public:
  // Reads manifest and image and checks digests, structure and meaning (ValidateImage), and the size of
  // `pages`, not its content. Has no side effects; never waits for a FIFO or a device.
  // kNotFound: "<dir> is not a template". kDataLoss: damaged, names the file.
  // kFailedPrecondition: another format version. kPermissionDenied.
  static absl::StatusOr<std::unique_ptr<TemplateReader>> Open(const std::string& dir);

  // The same checks of files that came from elsewhere. `pages` may lack content: it is as good as what is in it.
  // `name`: for messages.
  static absl::StatusOr<std::unique_ptr<TemplateReader>> FromFiles(const std::string& name, std::string manifest_file,
                                                                   std::string image_file, UniqueFd pages);

  const ProcessImageT& image() const { return *image_; }
  const ManifestT& manifest() const { return *manifest_; }
  // The files as they are on disk.
  const std::string& image_file() const { return image_file_; }
  const std::string& manifest_file() const { return manifest_file_; }
  // Read-only; `pages` holds manifest().pages->size bytes. Content is as good as the last VerifyPages.
  int pages_fd() const { return pages_.get(); }
  uint64_t pages_size() const { return manifest_->pages->size; }
  PageLeaves leaves() const { return {manifest_->format_version, manifest_->pages_leaves}; }

  // Hashes all of `pages`, with a second thread beside the caller's when it is big and `threads` allows it.
  // kDataLoss names the first bad chunk found.
  absl::Status VerifyPages(bool threads = true) const;

  // Fills `out` with verified bytes from `offset` on. What is not a whole chunk costs reading and hashing the
  // chunk: ask for large, chunk-aligned pieces. kOutOfRange past the end; kDataLoss leaves `out` undefined.
  absl::Status ReadPages(uint64_t offset, absl::Span<std::byte> out) const;
  // The same of what the caller holds against leaves() himself.
  absl::Status ReadUnchecked(uint64_t offset, absl::Span<std::byte> out) const;

 private:
  struct Parts;
  TemplateReader(std::string dir, Parts parts);
  static absl::StatusOr<Parts> ReadParts(int folder);
  static absl::Status CheckParts(Parts* parts);
  absl::Status ReadChunk(uint64_t chunk, absl::Span<std::byte> out) const;

  const std::string dir_;
  const std::string manifest_file_;
  const std::string image_file_;
  const std::unique_ptr<const ManifestT> manifest_;
  const std::unique_ptr<const ProcessImageT> image_;
  const UniqueFd pages_;
};

}  // namespace moult::image

#endif  // MOULT_PROTOCOL_TEMPLATE_READER_H_
