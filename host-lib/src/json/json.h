// SPDX-License-Identifier: Apache-2.0
//
// What the library says and takes as JSON.
#ifndef MOULT_HOST_JSON_JSON_H_
#define MOULT_HOST_JSON_JSON_H_

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "moult/protocol/function_spec.h"
#include "nlohmann/json.hpp"
#include "pager/stats.h"
#include "pool/cache/template_cache.h"
#include "pool/file/store.h"
#include "remote/stats.h"

namespace moult::host {

using Json = nlohmann::ordered_json;

// Bytes that are no UTF-8 (a guest's) become U+FFFD.
std::string Dump(const Json& json);

// kInvalidArgument names the member: "function: endpoint.kind: \"udp\" is unknown". Unknown members are
// refused, so that a typing error is no silent default.
absl::StatusOr<std::unique_ptr<rpc::FunctionSpecT>> SpecFromJson(std::string_view text);
Json ToJson(const rpc::FunctionSpecT& spec);
Json ToJson(const rpc::FunctionInfoT& info);
Json ToJson(const rpc::HelloReplyT& hello);
Json ToJson(const PagerStats& stats);
Json ToJson(const RemoteStats& stats);
Json ToJson(const CacheUse& use);
Json ToJson(const Template& content);
// The same with what only show says.
Json ToJsonInFull(const Template& content);

}  // namespace moult::host

#endif  // MOULT_HOST_JSON_JSON_H_
