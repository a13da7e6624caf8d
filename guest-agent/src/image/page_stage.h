// SPDX-License-Identifier: Apache-2.0
//
// Page content on its way from a stopped process into a template. While the process is stopped, pages are
// only copied to memory of ours (Stage...); what costs more (dropping zero pages, hashing, writing) happens
// in Finish, after it runs again. When that memory is full, the rest is written while it stands still.
#ifndef MOULT_IMAGE_PAGE_STAGE_H_
#define MOULT_IMAGE_PAGE_STAGE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "image/page_sink.h"
#include "moult/protocol/template_writer.h"

namespace moult::engine {

class PageStage : public PageSink {
 public:
  // `expected` bytes: how much is likely to come; the memory for it is made ready at once.
  static absl::StatusOr<std::unique_ptr<PageStage>> Create(image::TemplateWriter& writer, uint64_t expected);
  ~PageStage() override;

  // The runs are there after Finish.
  absl::Status StageRemote(const ptrace::Tracee& tracee, absl::Span<const AddressRange> ranges, bool forced,
                           std::vector<image::PageRun>* runs) override;
  absl::Status StageFile(int fd, uint64_t size, std::vector<image::PageRun>* runs) override;
  // Writes all that is staged.
  absl::Status Finish();

  uint64_t staged_bytes() const { return staged_; }

 private:
  struct Piece {
    uint64_t start;
    uint64_t length;
    std::vector<image::PageRun>* runs;
  };
  PageStage(image::TemplateWriter& writer, std::byte* buffer, size_t capacity)
      : writer_(writer), buffer_(buffer), capacity_(capacity) {}
  absl::Status CopyRemote(const ptrace::Tracee& tracee, absl::Span<const AddressRange> ranges, bool forced);
  absl::Status WritePiece(const Piece& piece, const std::byte* bytes);
  // Room for `length` bytes, at least one page of it, writing out what is there if need be.
  absl::StatusOr<size_t> Room(uint64_t length);

  image::TemplateWriter& writer_;
  std::byte* buffer_;
  size_t capacity_;
  size_t used_ = 0;
  uint64_t staged_ = 0;
  std::vector<Piece> pieces_;
};

}  // namespace moult::engine

#endif  // MOULT_IMAGE_PAGE_STAGE_H_
