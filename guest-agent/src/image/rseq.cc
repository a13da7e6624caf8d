// SPDX-License-Identifier: Apache-2.0
#include "image/rseq.h"

#include <linux/rseq.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace moult::engine {

absl::Status UnregisterRseq() {
  if (__rseq_size == 0) return absl::OkStatus();
  auto* area = static_cast<char*>(__builtin_thread_pointer()) + __rseq_offset;
  // Registered with the struct's full size, of which __rseq_size tells only the used part since glibc 2.40.
  for (const unsigned size : {32u, __rseq_size}) {
    if (syscall(SYS_rseq, area, size, RSEQ_FLAG_UNREGISTER, RSEQ_SIG) == 0) return absl::OkStatus();
  }
  return errno == EINVAL ? absl::OkStatus() : ErrnoStatus("unregister rseq");
}

}  // namespace moult::engine
