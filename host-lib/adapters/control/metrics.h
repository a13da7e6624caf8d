// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_ADAPTERS_CONTROL_METRICS_H_
#define MOULT_ADAPTERS_CONTROL_METRICS_H_

#include <string>

#include "message.h"

namespace moult::control {

// The answer to `status` as OpenMetrics text (1.0.0), to its "# EOF". What the answer lacks, the text lacks.
std::string OpenMetrics(const Json& status);

}  // namespace moult::control

#endif  // MOULT_ADAPTERS_CONTROL_METRICS_H_
