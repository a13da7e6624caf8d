// SPDX-License-Identifier: Apache-2.0
//
// The control socket's methods, as calls of moult.h. Nothing here knows of sockets or of a VMM.
#ifndef MOULT_ADAPTERS_CONTROL_METHODS_H_
#define MOULT_ADAPTERS_CONTROL_METHODS_H_

#include <functional>
#include <string>
#include <string_view>

#include "message.h"
#include "moult/moult.h"

namespace moult::control {

// What the methods act on. Either may be absent; methods that need it then say so.
struct Target {
  moult_vm* vm = nullptr;
  moult_store* store = nullptr;
  absl::Status fault;  // why there is no vm
};

// What a request became: an operation under way, or disk work that is still to be done.
struct Call {
  moult_op* op = nullptr;                      // the caller frees it
  std::function<absl::StatusOr<Json>()> disk;  // blocks; any thread
  bool stream = false;                         // op ends with a byte stream: moult_op_take_fd()
  bool mutates = false;                        // goes on to its end when the client has gone
  uint64_t requested = 0;                      // the function that gets a request; 0: it is none
};

// kInvalidArgument names the parameter; kUnimplemented: no such method.
absl::StatusOr<Call> Start(const Target& target, std::string_view method, const Json& params,
                           const moult_op_options& options);

// The function that the method is to change; 0: none, or the method is another.
uint64_t ChangedBy(std::string_view method, const Json& params);

// Of an operation that has ended. `detail` gets the result's JSON in either case.
absl::Status Outcome(const moult_op* op, Json* detail);

// What a method says that needs a vm where there is none.
absl::Status NeedVm(const Target& target, std::string_view method);

// The status of libmoult's last failed call on this thread.
absl::Status LastError();

}  // namespace moult::control

#endif  // MOULT_ADAPTERS_CONTROL_METHODS_H_
