// SPDX-License-Identifier: Apache-2.0
#include "translations.h"

namespace moult::qemu {

void DropTranslations(const Api& api, TbRange how, const Backend& window, uint64_t offset, uint64_t length) {
  if (length == 0) return;
  const uint64_t start = api.memory_region_get_ram_addr(window.region) + offset;
  api.tb_invalidate_phys_range(start, how == TbRange::kEndExclusive ? start + length : start + length - 1);
}

}  // namespace moult::qemu
