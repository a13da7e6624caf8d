// SPDX-License-Identifier: Apache-2.0
//
// A stand-in for libmoult behind moult.h: operations end when the test wants, and there is no guest.
#ifndef MOULT_TESTS_CONTROL_FAKE_MOULT_H_
#define MOULT_TESTS_CONTROL_FAKE_MOULT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "moult/base/unique_fd.h"

namespace moult::fake {

// Functions with a meaning; any other succeeds at the next moult_vm_process().
inline constexpr uint64_t kHeld = 1000;    // the operation runs until Release() or it is cancelled
inline constexpr uint64_t kUnknown = 404;  // ends with NOT_FOUND

// All operations on kHeld end well at the next process. Any thread.
void Release();
// "freeze 7", "capture 7 t disk", ... in the order of their starts and ends ("end freeze OK").
std::vector<std::string> Log();
// Waits, for at most 10 s, until Log() has `entry`.
bool WaitForLog(const std::string& entry);
// The other end of the stream that the last tunnel or logs operation gave.
UniqueFd TakeFarEnd();
// Operations that were started and not freed.
int LiveOps();
void Reset();

}  // namespace moult::fake

#endif  // MOULT_TESTS_CONTROL_FAKE_MOULT_H_
