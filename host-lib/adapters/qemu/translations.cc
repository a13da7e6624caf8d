// SPDX-License-Identifier: Apache-2.0
#include "translations.h"

#include <algorithm>

namespace moult::qemu {
namespace {

void Drop(const Api& api, TbRange how, const Backend& backend, uint64_t offset, uint64_t length) {
  if (length == 0) return;
  const uint64_t start = api.memory_region_get_ram_addr(backend.region) + offset;
  api.tb_invalidate_phys_range(start, how == TbRange::kEndExclusive ? start + length : start + length - 1);
}

}  // namespace

void DropTranslations(const Api& api, TbRange how, const std::vector<Backend>& windows, uint64_t gpa,
                      uint64_t length) {
  uint64_t dropped = 0;
  for (const Placed& part : Locate(api, windows)) {
    // Differences only: gpa + length may be more than 64 bits hold.
    const uint64_t skip = gpa > part.gpa ? gpa - part.gpa : 0;
    const uint64_t before = part.gpa > gpa ? part.gpa - gpa : 0;
    if (skip >= part.length || before >= length) continue;
    const uint64_t here = std::min(part.length - skip, length - before);
    Drop(api, how, *part.backend, part.offset + skip, here);
    dropped += here;
  }
  if (dropped == length) return;
  for (const Backend& window : windows) Drop(api, how, window, 0, window.length);
}

}  // namespace moult::qemu
