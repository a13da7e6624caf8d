// SPDX-License-Identifier: Apache-2.0
#include "resource/seccomp/restore.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

namespace moult::engine {

using ptrace::Arg;

void PlanSeccomp(const image::ProcessT& process, const image::ThreadT& thread, ptrace::ProgramBuilder& program) {
  if (thread.seccomp_mode == SECCOMP_MODE_STRICT) {
    program.Call("prctl(PR_SET_SECCOMP)", SYS_prctl, {PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0});
    return;
  }
  for (const uint32_t index : thread.seccomp) {
    const image::SeccompFilterT& filter = *process.seccomp_filters[index];
    const size_t instructions = program.AddVector(filter.program);
    sock_fprog header{};
    header.len = static_cast<unsigned short>(filter.program.size() / sizeof(sock_filter));
    const size_t data = program.AddObject(header);
    program.AddPointer(data + offsetof(sock_fprog, filter), instructions);
    program.Call("seccomp(SECCOMP_SET_MODE_FILTER)", SYS_seccomp, {SECCOMP_SET_MODE_FILTER, filter.flags, Arg::Data(data)});
  }
}

}  // namespace moult::engine
