// SPDX-License-Identifier: Apache-2.0
//
// A stand-in for libmoult behind moult.h: operations end when the test wants, and there is no guest.
#ifndef MOULT_TESTS_CONTROL_FAKE_MOULT_H_
#define MOULT_TESTS_CONTROL_FAKE_MOULT_H_

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "moult/base/unique_fd.h"
#include "moult/policy.h"

namespace moult::fake {

// Functions with a meaning; any other succeeds at the next moult_vm_process().
inline constexpr uint64_t kHeld = 1000;    // the operation runs until Release() or it is cancelled
inline constexpr uint64_t kUnknown = 404;  // ends with NOT_FOUND
// In lists there are 7, 9 and kHeld, which run, and 8, which has ended.

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
// What the policy "scripted" decides; called on the server's thread. Other specifications are unknown.
void SetPolicy(std::function<void(const moult_function_view&, moult_policy_decision*)> next);
// What each segment of every function has, by enum moult_segment.
void SetSegments(std::array<uint64_t, MOULT_SEGMENTS> bytes);
// No offload moves more.
void LimitOffload(uint64_t bytes);
// The next operations of this verb end with `code`.
void FailNext(const std::string& verb, moult_code code, int times = 1);
// The guest has begun anew.
void BootAgain();
// So many functions have ended and have room in the pool; a sweep that ends well leaves none, one on hold (HoldSweeps) does not end.
void SetUnswept(size_t functions);
void HoldSweeps(bool hold);
void Reset();

}  // namespace moult::fake

#endif  // MOULT_TESTS_CONTROL_FAKE_MOULT_H_
