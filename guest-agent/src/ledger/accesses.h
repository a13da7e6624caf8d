// SPDX-License-Identifier: Apache-2.0
//
// Which pages a process has touched since somebody last asked to forget it, by the bits that the CPU sets in its page
// tables (PTE "accessed").
#ifndef MOULT_LEDGER_ACCESSES_H_
#define MOULT_LEDGER_ACCESSES_H_

#include <linux/moult.h>
#include <sys/types.h>

#include <vector>

#include "absl/types/span.h"
#include "function/record.h"
#include "ledger/address_space.h"
#include "moult/base/status.h"
#include "moult/base/unique_fd.h"
#include "moult/protocol/rpc_generated.h"

namespace moult::agent {

class Accesses {
 public:
  // The driver (MOULT_YOUNG) tells of each page. Without it there is what every kernel has: clear_refs clears the same
  // bits, and smaps says of how much of a mapping they are set, but of which pages nothing does. /sys/kernel/mm/page_idle is
  // in no kernel of Debian's, DAMON takes samples, PAGEMAP_SCAN and soft-dirty know of writes alone, and /proc/kpageflags
  // has the frame's own mark, which is not set before the kernel looks for memory. So there a mapping counts as touched
  // as a whole.
  enum class Through { kBest, kKernel };

  explicit Accesses(Through through = Through::kBest);
  rpc::AccessSource source() const {
    return driver_.valid() ? rpc::AccessSource::Page : rpc::AccessSource::Mapping;
  }

  // From now on nothing counts as touched by `pid` until it is again. kNotFound: it has gone.
  absl::Status Forget(pid_t pid) const;
  // The same of all processes of `function`.
  absl::Status Forget(const Function& function) const;
  // Fills in `accessed` of `pages` of `pid`, which are sorted by address for that: a process that runs may have changed its
  // mappings while they were read. kNotFound: it has gone.
  absl::Status Look(pid_t pid, absl::Span<Mapping> pages) const;

 private:
  absl::Status LookByPage(pid_t pid, absl::Span<Mapping> pages) const;

  UniqueFd driver_;  // invalid: none that can
};

// As many of `pages`, sorted by address, as one MOULT_YOUNG takes, and the spans for it; pages in small gaps are asked for, too.
struct Asked {
  size_t pages = 0;
  std::vector<moult_span> spans;
};
Asked AskFor(absl::Span<const Mapping> pages);

}  // namespace moult::agent

#endif  // MOULT_LEDGER_ACCESSES_H_
