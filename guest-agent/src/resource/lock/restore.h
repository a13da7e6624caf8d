// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_RESOURCE_LOCK_RESTORE_H_
#define MOULT_RESOURCE_LOCK_RESTORE_H_

#include "image/restore_context.h"

namespace moult::engine {

// In the builder: takes the locks of open file `index` again. One that another process holds by now is an
// error that names it.
absl::Status RestoreLocks(RestoreContext& context, uint32_t index);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_LOCK_RESTORE_H_
