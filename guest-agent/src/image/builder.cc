// SPDX-License-Identifier: Apache-2.0
#include "image/builder.h"

#include <csignal>
#include <cstring>

#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "image/control.h"
#include "image/restore_context.h"
#include "image/rseq.h"
#include "parasite/blob.h"
#include "resource/fd/restore.h"
#include "resource/process/restore.h"

namespace moult::engine {
namespace {

absl::Status EnterSandbox(const SandboxHandles& sandbox) {
  if (sandbox.pidfd < 0) return absl::OkStatus();
  if (setns(sandbox.pidfd, CLONE_NEWNS | CLONE_NEWIPC) < 0) return ErrnoStatus("enter the sandbox's namespaces");
  if (setns(sandbox.time_namespace, CLONE_NEWTIME) < 0) return ErrnoStatus("enter the sandbox's time namespace");
  return absl::OkStatus();
}

// The tool's descriptors are of no use to the function; its own numbers must be free.
absl::Status CloseBelow(int first) {
  if (syscall(SYS_close_range, 0, first - 1, 0) < 0) return ErrnoStatus("close_range");
  return absl::OkStatus();
}

absl::Status Build(const BuilderInput& input) {
  const image::ProcessT& process = *input.image->processes.front();
  MOULT_RETURN_IF_ERROR(EnterSandbox(input.sandbox));
  MOULT_RETURN_IF_ERROR(CloseBelow(input.numbers->first));
  MOULT_RETURN_IF_ERROR(RestoreIds(process));
  RestoreContext context{*input.image, process, input.numbers->pages, input.numbers->free};
  MOULT_RETURN_IF_ERROR(RestoreObjects(context, *input.numbers));
  MOULT_RETURN_IF_ERROR(RestoreDescriptors(context));
  MOULT_RETURN_IF_ERROR(RestoreDirectories(context));
  MOULT_RETURN_IF_ERROR(UnregisterRseq());
  // The context's descriptors stay open: the program closes them all at its end.
  for (UniqueFd& fd : context.open_files) fd.Release();
  return absl::OkStatus();
}

[[noreturn]] void Enter(const RegionLayout& layout) {
  const uint64_t entry = (layout.address + layout.blob + parasite::RunOffset()).value();
  const uint64_t program = (layout.address + layout.leader_program).value();
  const uint64_t stack = (layout.address + layout.leader_stack_top).value();
  __asm__ volatile(
      "mov %[stack], %%rsp\n\t"
      "call *%[entry]\n\t"
      :
      : [stack] "r"(stack), [entry] "r"(entry), "D"(program)
      : "memory");
  __builtin_unreachable();
}

}  // namespace

[[noreturn]] void RunBuilder(const BuilderInput& input, std::byte* region_view) {
  auto* control = reinterpret_cast<Control*>(region_view);
  while (__atomic_load_n(&control->go, __ATOMIC_ACQUIRE) == 0) {
    // Not seized yet, so the tool's death would not be ours.
    pollfd tool{input.tool_pidfd, POLLIN, 0};
    if (poll(&tool, 1, 0) != 0) _exit(1);
    const timespec wait{0, 20'000'000};
    syscall(SYS_futex, &control->go, FUTEX_WAIT, 0, &wait, nullptr, 0);
  }
  const absl::Status status = Build(input);
  if (status.ok()) Enter(input.plan->layout);
  const std::string message(status.message());
  std::strncpy(control->message, message.c_str(), sizeof(control->message) - 1);
  control->code = static_cast<int32_t>(status.code());
  _exit(1);
}

}  // namespace moult::engine
