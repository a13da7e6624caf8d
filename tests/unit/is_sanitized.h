// SPDX-License-Identifier: Apache-2.0
//
// A sanitizer's allocator ends the process when it gets no mapping, its books want threads that end as they should, and its shadow
// is terabytes of address space.
#ifndef MOULT_TESTS_UNIT_IS_SANITIZED_H_
#define MOULT_TESTS_UNIT_IS_SANITIZED_H_

namespace moult::testing {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kIsSanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
inline constexpr bool kIsSanitized = true;
#else
inline constexpr bool kIsSanitized = false;
#endif
#else
inline constexpr bool kIsSanitized = false;
#endif

// Whose books also want threads that are not cancelled: of one it no longer sees what mutexes it holds.
#if defined(__SANITIZE_THREAD__)
inline constexpr bool kIsThreadSanitized = true;
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
inline constexpr bool kIsThreadSanitized = true;
#else
inline constexpr bool kIsThreadSanitized = false;
#endif
#else
inline constexpr bool kIsThreadSanitized = false;
#endif

}  // namespace moult::testing

#endif  // MOULT_TESTS_UNIT_IS_SANITIZED_H_
