// SPDX-License-Identifier: Apache-2.0
//
// What waits in pipes lies in pages of the kernel, which no mapping shows and the host therefore cannot discard.
#ifndef MOULT_LEDGER_PIPES_H_
#define MOULT_LEDGER_PIPES_H_

#include <sys/types.h>

#include "moult/base/status.h"

namespace moult::agent {

// Puts zeros in the place of what waits in the pipes of the sandbox whose init is `init_pid`. Its processes must stand
// still, and be about to end.
absl::Status WipePipes(pid_t init_pid);

// The same for one pipe, open for both reading and writing and not blocking.
absl::Status WipePipe(int fd);

}  // namespace moult::agent

#endif  // MOULT_LEDGER_PIPES_H_
