// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_TESTS_UNIT_HOST_END_THREAD_H_
#define MOULT_TESTS_UNIT_HOST_END_THREAD_H_

#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "is_sanitized.h"

namespace moult::host::testing {

// As a filter of system calls that kills a thread does: nothing of it is unwound, no destructor runs. Sanitizers keep books of
// threads, so there it is pthread_exit.
[[noreturn]] inline void EndThread() {
  if (moult::testing::kIsSanitized) pthread_exit(nullptr);
  syscall(SYS_exit, 0);
  __builtin_unreachable();
}

}  // namespace moult::host::testing

#endif  // MOULT_TESTS_UNIT_HOST_END_THREAD_H_
