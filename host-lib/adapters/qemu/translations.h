// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_ADAPTERS_QEMU_TRANSLATIONS_H_
#define MOULT_ADAPTERS_QEMU_TRANSLATIONS_H_

#include <cstdint>
#include <vector>

#include "memory_map.h"
#include "qemu_api.h"

namespace moult::qemu {

// TCG keeps translations of the code in a page until somebody writes to the page through QEMU. A page that is
// replaced by mmap is not written to, so they must be dropped. In the main loop's thread.
//
// `gpa` comes from the agent: QEMU is asked what is there. Unless that is all of it window memory, the
// translations of all of the windows are dropped, so that a lie makes things slower, not wrong.
void DropTranslations(const Api& api, TbRange how, const std::vector<Backend>& windows, uint64_t gpa,
                      uint64_t length);

}  // namespace moult::qemu

#endif  // MOULT_ADAPTERS_QEMU_TRANSLATIONS_H_
