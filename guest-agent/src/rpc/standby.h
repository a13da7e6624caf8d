// SPDX-License-Identifier: Apache-2.0
//
// Workers that are there before they are needed: a fork, and what a template takes to be read and planned, are a good part
// of an attach. One waits with nothing, for whatever verb comes next (of a repurpose, the detach); one that has attached a
// template keeps it, and waits for the next attach of it.
#ifndef MOULT_RPC_STANDBY_H_
#define MOULT_RPC_STANDBY_H_

#include <cstdint>
#include <memory>

#include "function/record.h"
#include "moult/protocol/message.h"
#include "rpc/config.h"
#include "rpc/kept_template.h"

namespace moult::agent {

// The longest specification of a function whose template is kept: its attach must go into an order.
inline constexpr size_t kMaxKeptSpec = 32 << 10;

// Hands a verb to the worker that waits at the other end of `socket`. kResourceExhausted: it is too long for that.
// kUnavailable: the worker has gone.
absl::Status SendOrder(int socket, int connection, uint64_t call, const rpc::RequestT& request,
                       const Function& function);

// Waits for orders of the agent at the other end of `agent`, until that closes. Goes on waiting after an order only with a
// template.
[[noreturn]] void StandBy(const Config& config, int agent, std::unique_ptr<KeptTemplate> kept);

}  // namespace moult::agent

#endif  // MOULT_RPC_STANDBY_H_
