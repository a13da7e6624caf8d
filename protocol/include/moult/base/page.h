// SPDX-License-Identifier: Apache-2.0
//
// Pages and user addresses of x86-64 Linux with four levels of page tables.
#ifndef MOULT_BASE_PAGE_H_
#define MOULT_BASE_PAGE_H_

#include <cstdint>

namespace moult {

inline constexpr uint64_t kPage = 4096;
// The end of what a user process can have mapped.
inline constexpr uint64_t kUserTop = 0x7ffffffff000;

// `align` is a power of two.
constexpr uint64_t AlignUp(uint64_t value, uint64_t align) { return (value + align - 1) & ~(align - 1); }

}  // namespace moult

#endif  // MOULT_BASE_PAGE_H_
