// SPDX-License-Identifier: Apache-2.0
#include "resource/thread/restore.h"

#include <csignal>

#include <sys/prctl.h>
#include <sys/syscall.h>

#include "resource/credentials/restore.h"

namespace moult::engine {

using ptrace::Arg;

void PlanThreadState(const image::ThreadT& thread, ptrace::ProgramBuilder& program) {
  if (thread.altstack != nullptr) {
    stack_t stack{};
    stack.ss_sp = reinterpret_cast<void*>(thread.altstack->sp());
    stack.ss_size = thread.altstack->size();
    // Whether the thread is on it follows from its stack pointer.
    stack.ss_flags = static_cast<int>(thread.altstack->flags() & ~static_cast<uint32_t>(SS_ONSTACK));
    program.Call("sigaltstack", SYS_sigaltstack, {Arg::Data(program.AddObject(stack)), 0});
  }
  if (thread.robust_list != nullptr) {
    program.Call("set_robust_list", SYS_set_robust_list, {thread.robust_list->head(), thread.robust_list->length()});
  }
  program.Call("set_tid_address", SYS_set_tid_address, {thread.tid_address});
  if (thread.rseq != nullptr) {
    program.Call("rseq", SYS_rseq, {thread.rseq->address(), thread.rseq->size(), thread.rseq->flags(), thread.rseq->signature()});
  }
  const std::string name(thread.comm.begin(), thread.comm.end());
  program.Call("prctl(PR_SET_NAME)", SYS_prctl, {PR_SET_NAME, Arg::Data(program.AddString(name)), 0, 0, 0});
  if (thread.tsc_mode == PR_TSC_SIGSEGV) program.Call("prctl(PR_SET_TSC)", SYS_prctl, {PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, 0});
}

void PlanCredentialsAndDeathSignal(const image::ThreadT& thread, const image::CredentialsT& current,
                                   ptrace::ProgramBuilder& program) {
  RestoreCredentials(*thread.credentials, current, thread.keep_caps, program);
  if (thread.parent_death_signal != 0) {
    program.Call("prctl(PR_SET_PDEATHSIG)", SYS_prctl, {PR_SET_PDEATHSIG, thread.parent_death_signal, 0, 0, 0});
  }
}

}  // namespace moult::engine
