// SPDX-License-Identifier: Apache-2.0
//
// Page content on its way from a stopped process into a template. While the process is stopped, pages are
// only copied to memory of ours (Stage...); what costs more (dropping zero pages, hashing, writing) happens
// in Finish, after it runs again. When that memory is full, the rest is written while it stands still.
// A thread copies beside the one that traces, which has other things to ask meanwhile.
#ifndef MOULT_IMAGE_PAGE_STAGE_H_
#define MOULT_IMAGE_PAGE_STAGE_H_

#include <sys/uio.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "image/page_sink.h"
#include "moult/protocol/template_writer.h"

namespace moult::engine {

class PageStage : public PageSink {
 public:
  // `expected` bytes: how much is likely to come; the memory for it is made ready at once.
  static absl::StatusOr<std::unique_ptr<PageStage>> Create(image::TemplateWriter& writer, uint64_t expected);
  ~PageStage() override;

  // The runs are there after Finish. The copying may go on until AwaitCopies has returned.
  absl::Status StageRemote(const ptrace::Tracee& tracee, absl::Span<const AddressRange> ranges, bool forced,
                           std::vector<image::PageRun>* runs) override;
  absl::Status StageFile(int fd, uint64_t size, std::vector<image::PageRun>* runs) override;
  // Helps with what is still to be copied, and waits for its end.
  absl::Status AwaitCopies() override;
  // Writes all that is staged.
  absl::Status Finish();

  uint64_t staged_bytes() const { return staged_; }

 private:
  struct Piece {
    uint64_t start;
    uint64_t length;
    std::vector<image::PageRun>* runs;
  };
  // Some ranges of the tracee, in one go.
  struct Copy {
    pid_t pid;
    std::byte* to;
    uint64_t length;
    std::vector<iovec> from;
  };
  PageStage(image::TemplateWriter& writer, std::byte* buffer, size_t capacity)
      : writer_(writer), buffer_(buffer), capacity_(capacity) {}
  absl::Status StageForced(const ptrace::Tracee& tracee, absl::Span<const AddressRange> ranges, std::vector<image::PageRun>* runs);
  absl::Status QueueCopies(const ptrace::Tracee& tracee, absl::Span<const AddressRange> ranges, std::vector<image::PageRun>* runs);
  void StartCopies();
  void RunCopies();
  void StopCopies();
  absl::Status WritePiece(const Piece& piece, const std::byte* bytes);
  // Room for `length` bytes, at least one page of it, writing out what is there if need be.
  absl::StatusOr<size_t> Room(uint64_t length);

  image::TemplateWriter& writer_;
  std::byte* buffer_;
  size_t capacity_;
  size_t used_ = 0;
  size_t most_used_ = 0;  // ever
  uint64_t staged_ = 0;
  std::vector<Piece> pieces_;
  // Fixed while the helper runs, but for the next one to do and the first error.
  std::vector<Copy> copies_;
  std::atomic<size_t> next_copy_ = 0;
  std::thread helper_;
  std::mutex mutex_;
  absl::Status copy_status_;
};

}  // namespace moult::engine

#endif  // MOULT_IMAGE_PAGE_STAGE_H_
