// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_ADAPTERS_CONTROL_METRICS_H_
#define MOULT_ADAPTERS_CONTROL_METRICS_H_

#include <string>

#include "function_names.h"
#include "message.h"

namespace moult::control {

// The answer to `status` as OpenMetrics text (1.0.0), to its "# EOF". What the answer lacks, the text lacks. With the
// names of functions, as far as they are known.
std::string OpenMetrics(const Json& status, const FunctionNames& names = {});

}  // namespace moult::control

#endif  // MOULT_ADAPTERS_CONTROL_METRICS_H_
