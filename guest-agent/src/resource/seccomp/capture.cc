// SPDX-License-Identifier: Apache-2.0
#include "resource/seccomp/capture.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/ptrace.h>

#include <algorithm>
#include <cstring>

namespace moult::engine {
namespace {

// Chains are mostly shared between threads: one copy of each program in the image.
uint32_t Intern(image::ProcessT& process, std::unique_ptr<image::SeccompFilterT> filter) {
  for (uint32_t i = 0; i < process.seccomp_filters.size(); ++i) {
    if (process.seccomp_filters[i]->program == filter->program && process.seccomp_filters[i]->flags == filter->flags) return i;
  }
  process.seccomp_filters.push_back(std::move(filter));
  return static_cast<uint32_t>(process.seccomp_filters.size() - 1);
}

// Whether it can hand a call to a listener, who is another process and would not know of the copies.
bool CanAskListener(const std::vector<uint8_t>& program) {
  std::vector<sock_filter> instructions(program.size() / sizeof(sock_filter));
  std::memcpy(instructions.data(), program.data(), instructions.size() * sizeof(sock_filter));
  // Directly, or from the accumulator.
  return std::any_of(instructions.begin(), instructions.end(), [](const sock_filter& instruction) {
    const bool constant = instruction.code == (BPF_RET | BPF_K) || instruction.code == (BPF_LD | BPF_IMM);
    return constant && (instruction.k & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_USER_NOTIF;
  });
}

}  // namespace

absl::Status CaptureSeccomp(CaptureContext& context, pid_t tid, const proc::Status& status, image::ThreadT& thread) {
  thread.seccomp_mode = static_cast<uint32_t>(status.seccomp);
  if (status.seccomp != 2) return absl::OkStatus();
  // Index 0 is the newest filter.
  for (uint64_t index = 0;; ++index) {
    const long length = ::ptrace(static_cast<__ptrace_request>(PTRACE_SECCOMP_GET_FILTER), tid, index, nullptr);
    if (length < 0 && errno == ENOENT) break;
    if (length < 0) {
      if (errno == EMEDIUMTYPE) return Refuse(absl::StrCat("thread ", tid, ": a seccomp filter that is not classic BPF"), "run it without");
      return ErrnoStatus(absl::StrCat("thread ", tid, ": read seccomp filter ", index));
    }
    auto filter = std::make_unique<image::SeccompFilterT>();
    filter->program.resize(static_cast<size_t>(length) * sizeof(sock_filter));
    if (::ptrace(static_cast<__ptrace_request>(PTRACE_SECCOMP_GET_FILTER), tid, index, filter->program.data()) < 0) {
      return ErrnoStatus(absl::StrCat("thread ", tid, ": read seccomp filter ", index));
    }
    if (CanAskListener(filter->program)) {
      return Refuse(absl::StrCat("thread ", tid, ": a seccomp filter that asks another process (SECCOMP_RET_USER_NOTIF)"), "run it without");
    }
    struct {
      uint64_t filter_off;
      uint64_t flags;
    } metadata{index, 0};
    if (::ptrace(static_cast<__ptrace_request>(PTRACE_SECCOMP_GET_METADATA), tid, sizeof(metadata), &metadata) < 0) {
      return ErrnoStatus(absl::StrCat("thread ", tid, ": read flags of seccomp filter ", index));
    }
    filter->flags = static_cast<uint32_t>(metadata.flags);
    thread.seccomp.insert(thread.seccomp.begin(), Intern(context.process, std::move(filter)));
  }
  return absl::OkStatus();
}

}  // namespace moult::engine
