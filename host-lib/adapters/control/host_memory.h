// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_ADAPTERS_CONTROL_HOST_MEMORY_H_
#define MOULT_ADAPTERS_CONTROL_HOST_MEMORY_H_

namespace moult::control {

// How full the host's memory is, 0 to 1: the share that could not be had without swapping. 0 when it is not told.
double HostPressure();

}  // namespace moult::control

#endif  // MOULT_ADAPTERS_CONTROL_HOST_MEMORY_H_
