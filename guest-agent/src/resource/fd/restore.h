// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_RESOURCE_FD_RESTORE_H_
#define MOULT_RESOURCE_FD_RESTORE_H_

#include "image/plan.h"
#include "image/restore_context.h"

namespace moult::engine {

// In the builder: makes objects at their reserved numbers, then all descriptors of the function at theirs.
absl::Status RestoreObjects(RestoreContext& context, const FdNumbers& numbers);
absl::Status RestoreDescriptors(RestoreContext& context);

// Adds the calls that name threads as receivers of signals (F_OWNER_TID), which must be there by then.
void PlanThreadOwners(const image::ProcessImageT& image, ptrace::ProgramBuilder& program);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_FD_RESTORE_H_
