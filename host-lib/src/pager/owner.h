// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_HOST_PAGER_OWNER_H_
#define MOULT_HOST_PAGER_OWNER_H_

#include <chrono>
#include <cstdint>
#include <list>
#include <optional>
#include <vector>

#include "pager/page_table.h"
#include "pager/stats.h"

namespace moult::host {

// By virtual address, since a function's pages lie elsewhere in guest RAM the next time.
struct VirtualPage {
  uint32_t pid;
  uint64_t va;
  auto operator<=>(const VirtualPage&) const = default;
};

struct Owner {
  PagerCounts counts;
  std::list<Batch> batches;
  std::vector<VirtualPage> working_set;  // in the order of the faults
  std::chrono::steady_clock::time_point recording_until = std::chrono::steady_clock::time_point::min();
  bool told_lost = false;  // the embedder knows that it has lost pages
  // Its function has ended, or stands still until it does. From `zeros_from` on what cannot be read is zeros: a moment after
  // the first read that failed, unless one went well since (none: none has), or at once, where its pages were lost before.
  bool ended = false;
  std::optional<std::chrono::steady_clock::time_point> zeros_from;
  bool zeros_given = false;  // for a page that could not be read, since End
  bool told_zeros = false;   // the embedder knows of them
};

}  // namespace moult::host

#endif  // MOULT_HOST_PAGER_OWNER_H_
