// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_ADAPTERS_QEMU_TRANSLATIONS_H_
#define MOULT_ADAPTERS_QEMU_TRANSLATIONS_H_

#include <cstdint>

#include "memory_map.h"
#include "qemu_api.h"

namespace moult::qemu {

// TCG keeps translations of the code in a page until somebody writes to the page through QEMU. A page that is
// replaced by mmap is not written to, so they must be dropped. In the main loop's thread.
void DropTranslations(const Api& api, TbRange how, const Backend& window, uint64_t offset, uint64_t length);

}  // namespace moult::qemu

#endif  // MOULT_ADAPTERS_QEMU_TRANSLATIONS_H_
