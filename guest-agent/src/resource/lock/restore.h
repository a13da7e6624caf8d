// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_RESOURCE_LOCK_RESTORE_H_
#define MOULT_RESOURCE_LOCK_RESTORE_H_

#include "image/restore_context.h"
#include "ptrace/program_builder.h"

namespace moult::engine {

// POSIX locks belong to the process and go when it closes any descriptor of the file: so they are taken by the
// program, after the last close. One that another process holds by now fails the restore with EAGAIN.
void PlanPosixLocks(const image::ProcessImageT& image, ptrace::ProgramBuilder& program);

// In the builder: takes all other locks of open file `index` again. One that another process holds by now is an
// error that names it.
absl::Status RestoreLocks(RestoreContext& context, uint32_t index);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_LOCK_RESTORE_H_
