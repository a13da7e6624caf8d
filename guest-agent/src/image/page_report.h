// SPDX-License-Identifier: Apache-2.0
//
// Names the pages of a stopped process by guest-physical address, in the order in which a template keeps
// their content. Nothing is copied: the host reads guest RAM itself while the process stands still.
#ifndef MOULT_IMAGE_PAGE_REPORT_H_
#define MOULT_IMAGE_PAGE_REPORT_H_

#include <sys/types.h>

#include "image/page_sink.h"
#include "moult/base/unique_fd.h"

namespace moult::engine {

struct GpaRun {
  uint64_t gpa;
  uint64_t length;
};

class PageReport : public PageSink {
 public:
  ~PageReport() override;

  absl::Status StageRemote(const ptrace::Tracee& tracee, absl::Span<const AddressRange> ranges, bool forced,
                           std::vector<image::PageRun>* runs) override;
  absl::Status StageFile(int fd, uint64_t size, std::vector<image::PageRun>* runs) override;

  const std::vector<GpaRun>& pages() const { return pages_; }
  uint64_t size() const { return size_; }

  // Looks everything up again. The process stood still, but the kernel may have moved a page to another frame
  // (compaction, huge page collapse): then what was read from the old frame may not be its content.
  // kAborted: at least one moved; capture again.
  absl::Status CheckUnmoved() const;

 private:
  // Parts of an address space whose frames were reported, in order.
  struct Piece {
    pid_t pid;
    std::vector<AddressRange> ranges;
  };
  absl::Status Take(pid_t pid, absl::Span<const AddressRange> ranges);

  std::vector<GpaRun> pages_;
  uint64_t size_ = 0;
  std::vector<Piece> pieces_;
  std::vector<std::pair<void*, uint64_t>> mapped_;  // files, as long as their frames must not change
};

}  // namespace moult::engine

#endif  // MOULT_IMAGE_PAGE_REPORT_H_
