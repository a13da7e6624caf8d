// SPDX-License-Identifier: Apache-2.0
//
// libmoult in this process, with a vm that has no memory: pages travel over the connection.
#include <fcntl.h>

#include <chrono>
#include <functional>
#include <future>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "backend.h"
#include "control/listener.h"
#include "control/methods.h"
#include "moult/base/status.h"
#include "progress.h"

namespace moult::ctl {
namespace {

class Agent final : public Backend {
 public:
  Agent(moult_store* store, moult_vm* vm) : target_{.vm = vm, .store = store, .fault = absl::OkStatus()} {}
  ~Agent() override {
    moult_vm_close(target_.vm);
    moult_store_close(target_.store);
  }

  absl::StatusOr<Json> Call(const std::string& method, const Json& params) override {
    if (method == "status" || method == "metrics")
      return absl::FailedPreconditionError(
          absl::StrCat(method, ": only a VM's process has it; use --control"));
    MOULT_ASSIGN_OR_RETURN(control::Call call, Start(method, params));
    if (call.disk) return OnDisk(method, call.disk);
    const absl::StatusOr<Json> result = Finish(method, call.op);
    moult_op_free(call.op);
    return result;
  }

  absl::StatusOr<UniqueFd> Stream(const std::string& method, const Json& params) override {
    MOULT_ASSIGN_OR_RETURN(const control::Call call, Start(method, params));
    const absl::Status status = Finish(method, call.op).status();
    UniqueFd stream(status.ok() ? moult_op_take_fd(call.op) : -1);
    moult_op_free(call.op);
    MOULT_RETURN_IF_ERROR(status);
    // As the control socket's: blocking.
    fcntl(stream.get(), F_SETFL, fcntl(stream.get(), F_GETFL) & ~O_NONBLOCK);
    return stream;
  }

 private:
  absl::StatusOr<control::Call> Start(const std::string& method, const Json& params) {
    return control::Start(target_, method, params, moult_init<moult_op_options>());
  }

  // The disk work in a thread of its own, so that this one can show progress.
  static absl::StatusOr<Json> OnDisk(const std::string& method,
                                     const std::function<absl::StatusOr<Json>()>& disk) {
    Progress progress(method);
    std::future<absl::StatusOr<Json>> result = std::async(std::launch::async, disk);
    while (result.wait_for(std::chrono::milliseconds(Progress::kEveryMs)) != std::future_status::ready)
      progress.Tick();
    return result.get();
  }

  absl::StatusOr<Json> Finish(const std::string& method, moult_op* op) {
    Progress progress(method);
    while (moult_op_wait(op, Progress::kEveryMs) == -ETIME) progress.Tick();
    Json result;
    MOULT_RETURN_IF_ERROR(control::Outcome(op, &result));
    return result;
  }

  const control::Target target_;
};

absl::StatusOr<moult_transport> ParseAddress(const std::string& text, std::string* path) {
  const std::vector<std::string> parts = absl::StrSplit(text, ':');
  moult_transport transport{};
  const auto number = [](const std::string& digits, uint32_t* to) {
    return absl::SimpleAtoi(digits, to) && *to != 0;
  };
  const bool has_port = parts.size() == 3;
  bool good = parts.size() >= 2 && parts.size() <= 3 && !parts[1].empty() &&
              (!has_port || number(parts[2], &transport.port));
  if (good && parts[0] == "vsock") {
    transport.kind = MOULT_TRANSPORT_VSOCK;
    good = number(parts[1], &transport.cid);
  } else if (good && (parts[0] == "uds" || (parts[0] == "unix" && !has_port))) {
    transport.kind = parts[0] == "uds" ? MOULT_TRANSPORT_CONNECT : MOULT_TRANSPORT_UNIX;
    *path = parts[1];
    transport.path = path->c_str();
  } else {
    good = false;
  }
  if (!good)
    return absl::InvalidArgumentError(
        absl::StrCat("--agent ", text, ": must be vsock:CID[:PORT], uds:PATH[:PORT] or unix:PATH"));
  return transport;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> AgentBackend(const Where& where) {
  std::string path;
  moult_vm_options options = MOULT_INIT(options);
  MOULT_ASSIGN_OR_RETURN(options.transport, ParseAddress(where.agent, &path));
  moult_store* store = nullptr;
  if (!where.store.empty()) {
    moult_store_options store_options = MOULT_INIT(store_options);
    store_options.flags = MOULT_STORE_CREATE;
    if (moult_store_open(where.store.c_str(), &store_options, &store) < 0) return control::LastError();
  }
  options.store = store;
  options.tenant = where.tenant.c_str();
  moult_vm* vm = nullptr;
  if (moult_vm_create(&options, &vm) < 0) {
    const absl::Status status = control::LastError();
    moult_store_close(store);
    return status;
  }
  return std::make_unique<Agent>(store, vm);
}

absl::StatusOr<std::unique_ptr<Backend>> Open(const Where& where) {
  if (!where.agent.empty()) return AgentBackend(where);
  if (where.control.empty()) {
    return absl::InvalidArgumentError(
        "which VM? Give --control SOCKET (or set MOULT_CONTROL), or --agent ADDRESS");
  }
  MOULT_ASSIGN_OR_RETURN(UniqueFd fd, control::Connect(where.control));
  return ControlBackend(std::move(fd), where.control);
}

}  // namespace moult::ctl
