// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_IMAGE_RSEQ_H_
#define MOULT_IMAGE_RSEQ_H_

#include "moult/base/status.h"

namespace moult::engine {

// Takes back the restartable-sequences area that glibc registered for this thread. Needed before its memory
// goes: the kernel kills a thread whose area it cannot write at the next preemption.
absl::Status UnregisterRseq();

}  // namespace moult::engine

#endif  // MOULT_IMAGE_RSEQ_H_
