// SPDX-License-Identifier: Apache-2.0
//
// The agent's own log: lines on stderr, which the service manager or init keeps.
#ifndef MOULT_RPC_LOG_H_
#define MOULT_RPC_LOG_H_

#include <string_view>

namespace moult::agent {

void Log(std::string_view line);

}  // namespace moult::agent

#endif  // MOULT_RPC_LOG_H_
