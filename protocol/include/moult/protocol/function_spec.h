// SPDX-License-Identifier: Apache-2.0
//
// FunctionSpec on its own: as a template carries it (Manifest.function), and as people and programs give it.
#ifndef MOULT_PROTOCOL_FUNCTION_SPEC_H_
#define MOULT_PROTOCOL_FUNCTION_SPEC_H_

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "moult/protocol/rpc_generated.h"

namespace moult::rpc {

// OK, or kDataLoss with the path of the first field that breaks a rule of spec.md, "Functions":
// "spec.argv: empty".
absl::Status ValidateFunctionSpec(const FunctionSpecT& spec);

// Structure and ValidateFunctionSpec.
absl::StatusOr<std::unique_ptr<FunctionSpecT>> ParseFunctionSpec(std::string_view bytes);

// The FlatBuffer alone.
std::string SerializeFunctionSpec(const FunctionSpecT& spec);

// A function's or template's name: 1 to 64 of [A-Za-z0-9._-], not beginning with a dot, so that it can name a
// folder too.
bool IsName(std::string_view name);

}  // namespace moult::rpc

#endif  // MOULT_PROTOCOL_FUNCTION_SPEC_H_
