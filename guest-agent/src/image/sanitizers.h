// SPDX-License-Identifier: Apache-2.0
//
// MOULT_ADDRESS_SANITIZER, MOULT_THREAD_SANITIZER: defined where this is compiled with one. gcc has a macro for each,
// clang a feature.
#ifndef MOULT_IMAGE_SANITIZERS_H_
#define MOULT_IMAGE_SANITIZERS_H_

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define MOULT_ADDRESS_SANITIZER 1
#endif
#if __has_feature(thread_sanitizer)
#define MOULT_THREAD_SANITIZER 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define MOULT_ADDRESS_SANITIZER 1
#endif
#ifdef __SANITIZE_THREAD__
#define MOULT_THREAD_SANITIZER 1
#endif

#endif  // MOULT_IMAGE_SANITIZERS_H_
