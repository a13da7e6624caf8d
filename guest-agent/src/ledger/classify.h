// SPDX-License-Identifier: Apache-2.0
//
// What a page frame is, and whose. Pure: all that is known of the frame comes in.
#ifndef MOULT_LEDGER_CLASSIFY_H_
#define MOULT_LEDGER_CLASSIFY_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "ledger/address_space.h"
#include "ledger/census.h"
#include "ledger/frame_table.h"
#include "moult/protocol/rpc_generated.h"
#include "rpc/iomem.h"

namespace moult::agent {

// As rpc::PageRun, for one page.
struct PageUse {
  rpc::PageClass page_class = rpc::PageClass::System;
  rpc::PageKind kind = rpc::PageKind::Kernel;
  uint64_t function = 0;
  uint32_t pid = 0;
  uint64_t va = 0;
  uint32_t file = 0;
  uint64_t file_offset = 0;
  uint8_t prot = 0;
  rpc::Segment segment{};  // not the classifier's to tell
  rpc::PageFlag flags{};
};

class Classifier {
 public:
  // All must outlive it.
  Classifier(const Census& census, const AddressSpaces& spaces, std::vector<RamRange> kernel_image, bool kernel_merges)
      : census_(census), spaces_(spaces), kernel_image_(std::move(kernel_image)), kernel_merges_(kernel_merges) {}

  // To be called for rising frames: the later pages of a compound page are what its first is. `mappings`: all that show the
  // frame and are known.
  PageUse Classify(uint64_t frame, FrameInfo info, absl::Span<const Mapping> mappings);
  // A window's page, as `mapping` shows it.
  PageUse OfWindow(const Mapping& mapping) const;

 private:
  // Who maps a frame.
  struct Users {
    uint64_t function = 0;          // of the first that is a function's process
    const Mapping* one = nullptr;   // that one's, or else the first there is
    bool only = false;              // all who map it are of `function`
    bool several = false;           // more than one process
  };
  Users Look(const FrameInfo& info, absl::Span<const Mapping> mappings) const;
  void Tell(const Mapping& mapping, PageUse& use) const;
  uint64_t Payer(const FrameInfo& info) const;
  void ClassifyAnonymous(const FrameInfo& info, const Users& users, PageUse& use) const;
  void ClassifyShmem(const FrameInfo& info, const Users& users, PageUse& use) const;
  void ClassifyFile(const Users& users, PageUse& use) const;
  void ClassifyKernel(uint64_t frame, const FrameInfo& info, PageUse& use) const;
  rpc::PageFlag FlagsOf(const FrameInfo& info, absl::Span<const Mapping> mappings) const;
  const Resident& Process(const Mapping& mapping) const {
    return census_.processes[spaces_.vmas()[mapping.vma].process];
  }

  const Census& census_;
  const AddressSpaces& spaces_;
  const std::vector<RamRange> kernel_image_;
  const bool kernel_merges_;
  FrameInfo head_;  // of the compound page at hand
};

}  // namespace moult::agent

#endif  // MOULT_LEDGER_CLASSIFY_H_
