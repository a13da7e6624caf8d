// SPDX-License-Identifier: Apache-2.0
//
// System calls that fail, by a filter of the calling thread alone: it, and what it starts, has it to its end.
#ifndef MOULT_TESTS_UNIT_FORBID_H_
#define MOULT_TESTS_UNIT_FORBID_H_

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace moult::testing {

struct ForbiddenCall {
  uint32_t number;
  std::optional<uint32_t> second_argument = {};  // only with this one
};

// The device is another way to the same thing.
inline const std::vector<ForbiddenCall> kUserfaultfdCalls = {
    {SYS_userfaultfd}, {SYS_ioctl, static_cast<uint32_t>(USERFAULTFD_IOC_NEW)}};
inline const std::vector<ForbiddenCall> kThreadCalls = {{SYS_clone}, {SYS_clone3}};

[[nodiscard]] inline bool Forbid(const std::vector<ForbiddenCall>& calls, int error) {
  std::vector<sock_filter> program;
  const auto fail = SECCOMP_RET_ERRNO | (static_cast<uint32_t>(error) & SECCOMP_RET_DATA);
  for (const ForbiddenCall& call : calls) {
    const auto rest = static_cast<uint8_t>(call.second_argument ? 3 : 1);
    program.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)));
    program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call.number, 0, rest));
    if (call.second_argument) {
      program.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[1])));
      program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, *call.second_argument, 0, 1));
    }
    program.push_back(BPF_STMT(BPF_RET | BPF_K, fail));
  }
  program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  const sock_fprog filter = {static_cast<unsigned short>(program.size()), program.data()};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

}  // namespace moult::testing

#endif  // MOULT_TESTS_UNIT_FORBID_H_
