// SPDX-License-Identifier: Apache-2.0
#include <poll.h>

#include "capi/capi.h"
#include "json/json.h"
#include "moult/base/page.h"
#include "moult/pager.h"
#include "moult/pages.h"
#include "moult/policy.h"
#include "moult/protocol/limits.h"
#include "session/ops.h"

using moult::capi::Guarded;
using moult::capi::Report;
using moult::capi::TakeOptions;
using moult::capi::Text;
using moult::host::Op;
using moult::host::Vm;
namespace ops = moult::host::ops;

namespace {

constexpr uint32_t kQuick = 10000;  // ms; the defaults of the verbs
constexpr uint32_t kMedium = 60000;
constexpr uint32_t kLong = 120000;
constexpr uint32_t kMaxTimeout = 24 * 3600 * 1000;

// An operation's body, and the function that it is about; 0: none.
struct Made {
  Vm::Body body;
  uint64_t function = 0;
};

int Start(moult_vm* vm, const moult_op_options* options, moult_op** handle, const char* verb,
          uint32_t default_ms, const std::function<absl::StatusOr<Made>()>& make) {
  return Guarded([&]() -> absl::Status {
    if (handle == nullptr) return absl::InvalidArgumentError("op is NULL");
    *handle = nullptr;
    if (vm == nullptr) return absl::InvalidArgumentError("vm is NULL");
    moult_op_options ours{};
    if (options != nullptr) {
      MOULT_ASSIGN_OR_RETURN(ours, TakeOptions(options, "moult_op_options"));
    }
    if (ours.timeout_ms > kMaxTimeout) return absl::InvalidArgumentError("timeout_ms: more than 24 hours");
    auto made = make();
    if (!made.ok()) return moult::Annotate(made.status(), verb);
    auto result = std::make_unique<moult_op>();
    result->link = vm->link;
    result->op = vm->vm->Start(verb, ours.timeout_ms, default_ms, std::move(made->body), made->function);
    result->op->handle = result.get();
    if (ours.done != nullptr) {
      result->op->on_done = [done = ours.done, user = ours.user, op = result.get()] { done(user, op); };
    }
    *handle = result.release();
    return absl::OkStatus();
  });
}

absl::Status NeedFunction(uint64_t function) {
  return function != 0 ? absl::OkStatus() : absl::InvalidArgumentError("function is 0, which names none");
}

absl::StatusOr<moult::host::PageMode> TakePages(uint32_t pages) {
  if (pages > MOULT_PAGES_COPY) return absl::InvalidArgumentError("pages: unknown mode");
  return static_cast<moult::host::PageMode>(pages);
}

absl::Status NeedStore(moult_vm* vm) {
  if (vm->vm->config().store != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError("this vm has no store; give it one when it is created");
}

absl::Status NeedRam(moult_vm* vm) {
  if (!vm->vm->memory().empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "this vm was created without RAM regions, so that pages cannot be discarded; use kill");
}

absl::Status NeedConnections(moult_vm* vm) {
  if (!vm->vm->single_connection()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "only one connection was given to this vm, and this would use it up; use another transport");
}

// An operation with nothing but a function.
using Simple = moult::host::Task<absl::Status> (*)(Vm*, Op*, uint64_t);
int StartSimple(
    moult_vm* vm, uint64_t function, const moult_op_options* options, moult_op** op, const char* verb,
    uint32_t default_ms, Simple body,
    absl::Status (*need)(moult_vm*) = [](moult_vm*) { return absl::OkStatus(); }) {
  return Start(vm, options, op, verb, default_ms, [&]() -> absl::StatusOr<Made> {
    MOULT_RETURN_IF_ERROR(NeedFunction(function));
    MOULT_RETURN_IF_ERROR(need(vm));
    return Made{[=](Vm* on, Op* self) { return body(on, self, function); }, function};
  });
}

absl::StatusOr<ops::CaptureConfig> TakeCapture(moult_vm* vm, uint64_t function, const char* name, uint32_t pages) {
  MOULT_RETURN_IF_ERROR(NeedFunction(function));
  MOULT_RETURN_IF_ERROR(NeedStore(vm));
  ops::CaptureConfig config{function, Text(name), false, {}};
  MOULT_ASSIGN_OR_RETURN(config.pages, TakePages(pages));
  if (config.pages == moult::host::PageMode::kInPlace) MOULT_RETURN_IF_ERROR(NeedRam(vm));
  if (!moult::rpc::IsName(config.name)) {
    return absl::InvalidArgumentError("name: give 1 to 64 of [A-Za-z0-9._-], not beginning with a dot");
  }
  return config;
}

absl::StatusOr<ops::AttachConfig> TakeAttach(moult_vm* vm, const moult_attach_options* attach) {
  MOULT_ASSIGN_OR_RETURN(const moult_attach_options ours, TakeOptions(attach, "moult_attach_options"));
  ops::AttachConfig config;
  config.name = Text(ours.name);
  config.from = Text(ours.from);
  config.digest = Text(ours.digest);
  if (config.from.empty()) {
    MOULT_RETURN_IF_ERROR(NeedStore(vm));
    if (!config.digest.empty()) return absl::InvalidArgumentError("digest: only with from");
  } else {
    MOULT_RETURN_IF_ERROR(moult::host::ParsePoolUri(config.from).status());
  }
  MOULT_ASSIGN_OR_RETURN(config.pages, TakePages(ours.pages));
  if ((ours.flags & ~MOULT_ATTACH_SETTLED) != 0) return absl::InvalidArgumentError("flags: unknown ones are set");
  config.settled = (ours.flags & MOULT_ATTACH_SETTLED) != 0;
  if (!moult::rpc::IsName(config.name)) return absl::InvalidArgumentError("name: is no name of a template");
  return config;
}

}  // namespace

extern "C" {

int moult_vm_hello(struct moult_vm* vm, const struct moult_op_options* options, struct moult_op** op) {
  return Start(vm, options, op, "hello", kQuick, [] { return Made{ops::Hello}; });
}

int moult_vm_doctor(struct moult_vm* vm, const struct moult_op_options* options, struct moult_op** op) {
  return Start(vm, options, op, "doctor", kQuick, [] { return Made{ops::Doctor}; });
}

int moult_vm_list(struct moult_vm* vm, const struct moult_op_options* options, struct moult_op** op) {
  return Start(vm, options, op, "list", kQuick, [] { return Made{ops::List}; });
}

int moult_vm_pages(struct moult_vm* vm, const struct moult_pages_options* pages,
                   const struct moult_op_options* options, struct moult_op** op) {
  return Start(vm, options, op, "pages", kMedium, [&]() -> absl::StatusOr<Made> {
    MOULT_ASSIGN_OR_RETURN(const moult_pages_options ours, TakeOptions(pages, "moult_pages_options"));
    if ((ours.flags & ~MOULT_PAGES_JSON_RUNS) != 0) return absl::InvalidArgumentError("pages: unknown flags");
    const ops::PagesConfig config{ours.function, (ours.flags & MOULT_PAGES_JSON_RUNS) != 0};
    return Made{[config](Vm* on, Op* self) { return ops::Pages(on, self, config); }, config.function};
  });
}

int moult_vm_why(struct moult_vm* vm, uint64_t gpa, const void* hva, const struct moult_op_options* options,
                 struct moult_op** op) {
  return Start(vm, options, op, "why", kMedium, [&]() -> absl::StatusOr<Made> {
    auto address = moult::host::GuestPhys(gpa);
    if (hva != nullptr) {
      MOULT_ASSIGN_OR_RETURN(address, vm->vm->AddressOf(static_cast<const std::byte*>(hva)));
    }
    return Made{[address](Vm* on, Op* self) { return ops::Why(on, self, address); }};
  });
}

int moult_vm_offload(struct moult_vm* vm, const struct moult_offload_options* offload,
                     const struct moult_op_options* options, struct moult_op** op) {
  return Start(vm, options, op, "offload", kMedium, [&]() -> absl::StatusOr<Made> {
    MOULT_ASSIGN_OR_RETURN(const moult_offload_options ours, TakeOptions(offload, "moult_offload_options"));
    MOULT_RETURN_IF_ERROR(NeedFunction(ours.function));
    if ((ours.flags & ~(MOULT_OFFLOAD_COLD_ONLY | MOULT_OFFLOAD_RUN_ON)) != 0) {
      return absl::InvalidArgumentError("offload: unknown flags");
    }
    if (ours.segments >> MOULT_SEGMENTS != 0) return absl::InvalidArgumentError("offload: unknown segments");
    if (ours.most_bytes % moult::kPage != 0)
      return absl::InvalidArgumentError("offload: most_bytes is no multiple of a page");
    const ops::OffloadConfig config{ours.function, (ours.flags & MOULT_OFFLOAD_COLD_ONLY) != 0,
                                    (ours.flags & MOULT_OFFLOAD_RUN_ON) != 0,
                                    ours.segments << static_cast<unsigned>(moult::rpc::Segment::Runtime),
                                    ours.most_bytes};
    return Made{[config](Vm* on, Op* self) { return ops::Offload(on, self, config); }, config.function};
  });
}

int moult_vm_recall(struct moult_vm* vm, const struct moult_recall_options* recall,
                    const struct moult_op_options* options, struct moult_op** op) {
  return Start(vm, options, op, "recall", kMedium, [&]() -> absl::StatusOr<Made> {
    MOULT_ASSIGN_OR_RETURN(const moult_recall_options ours, TakeOptions(recall, "moult_recall_options"));
    MOULT_RETURN_IF_ERROR(NeedFunction(ours.function));
    using moult::host::Prefetch;
    constexpr Prefetch kPrefetch[] = {Prefetch::kWorkingSet, Prefetch::kAll, Prefetch::kNone};
    if (ours.prefetch > MOULT_PREFETCH_NONE) return absl::InvalidArgumentError("prefetch: unknown");
    const ops::RecallConfig config{ours.function, kPrefetch[ours.prefetch]};
    return Made{[config](Vm* on, Op* self) { return ops::Recall(on, self, config); }, config.function};
  });
}

int moult_vm_recall_all(struct moult_vm* vm, const struct moult_op_options* options, struct moult_op** op) {
  return Start(vm, options, op, "recall_all", kLong, [] { return Made{ops::RecallAll}; });
}

int moult_vm_sweep(struct moult_vm* vm, const struct moult_op_options* options, struct moult_op** op) {
  return Start(vm, options, op, "sweep", kLong, [] { return Made{ops::Sweep}; });
}

int moult_vm_run(struct moult_vm* vm, const char* function_json, const struct moult_op_options* options,
                 struct moult_op** op) {
  return Start(vm, options, op, "run", kLong, [&]() -> absl::StatusOr<Made> {
    if (function_json == nullptr) return absl::InvalidArgumentError("function_json is NULL");
    MOULT_ASSIGN_OR_RETURN(auto spec, moult::host::SpecFromJson(function_json));
    return Made{[spec = std::shared_ptr<const moult::rpc::FunctionSpecT>(std::move(spec))](
                        Vm* on, Op* self) { return ops::Run(on, self, spec); }};
  });
}

int moult_vm_freeze(struct moult_vm* vm, uint64_t function, const struct moult_op_options* options,
                    struct moult_op** op) {
  return StartSimple(vm, function, options, op, "freeze", kQuick, ops::Freeze);
}

int moult_vm_thaw(struct moult_vm* vm, uint64_t function, const struct moult_op_options* options,
                  struct moult_op** op) {
  return StartSimple(vm, function, options, op, "thaw", kQuick, ops::Thaw);
}

int moult_vm_kill(struct moult_vm* vm, uint64_t function, const struct moult_op_options* options,
                  struct moult_op** op) {
  return StartSimple(vm, function, options, op, "kill", kQuick, ops::Kill);
}

int moult_vm_forget(struct moult_vm* vm, uint64_t function, const struct moult_op_options* options,
                    struct moult_op** op) {
  return StartSimple(vm, function, options, op, "forget", kQuick, ops::Forget);
}

int moult_vm_capture(struct moult_vm* vm, const struct moult_capture_options* capture,
                     const struct moult_op_options* options, struct moult_op** op) {
  return Start(vm, options, op, "capture", kLong, [&]() -> absl::StatusOr<Made> {
    MOULT_ASSIGN_OR_RETURN(const moult_capture_options ours, TakeOptions(capture, "moult_capture_options"));
    MOULT_ASSIGN_OR_RETURN(ops::CaptureConfig config, TakeCapture(vm, ours.function, ours.name, ours.pages));
    config.end = ours.end != 0;
    return Made{[config](Vm* on, Op* self) { return ops::Capture(on, self, config); }, config.function};
  });
}

int moult_vm_fork(struct moult_vm* vm, const struct moult_fork_options* fork,
                  const struct moult_op_options* options, struct moult_op** op) {
  return Start(vm, options, op, "fork", kLong, [&]() -> absl::StatusOr<Made> {
    MOULT_ASSIGN_OR_RETURN(const moult_fork_options ours, TakeOptions(fork, "moult_fork_options"));
    ops::ForkConfig config;
    MOULT_ASSIGN_OR_RETURN(config.capture, TakeCapture(vm, ours.function, ours.name, ours.pages));
    config.to = Text(ours.to);
    MOULT_RETURN_IF_ERROR(moult::host::ParsePoolUri(config.to).status());
    if ((ours.flags & ~MOULT_FORK_KEEP) != 0) return absl::InvalidArgumentError("flags: unknown ones are set");
    config.keep = (ours.flags & MOULT_FORK_KEEP) != 0;
    return Made{[config](Vm* on, Op* self) { return ops::Fork(on, self, config); }, config.capture.function};
  });
}

int moult_vm_attach(struct moult_vm* vm, const struct moult_attach_options* attach,
                    const struct moult_op_options* options, struct moult_op** op) {
  return Start(vm, options, op, "attach", kLong, [&]() -> absl::StatusOr<Made> {
    MOULT_ASSIGN_OR_RETURN(const ops::AttachConfig config, TakeAttach(vm, attach));
    return Made{[config](Vm* on, Op* self) { return ops::Attach(on, self, config); }};
  });
}

int moult_vm_detach(struct moult_vm* vm, uint64_t function, const struct moult_op_options* options,
                    struct moult_op** op) {
  return StartSimple(vm, function, options, op, "detach", kMedium, ops::Detach, NeedRam);
}

int moult_vm_repurpose(struct moult_vm* vm, uint64_t function, const struct moult_attach_options* attach,
                       const struct moult_op_options* options, struct moult_op** op) {
  return Start(vm, options, op, "repurpose", kLong, [&]() -> absl::StatusOr<Made> {
    MOULT_RETURN_IF_ERROR(NeedFunction(function));
    MOULT_RETURN_IF_ERROR(NeedRam(vm));
    MOULT_ASSIGN_OR_RETURN(const ops::AttachConfig config, TakeAttach(vm, attach));
    return Made{[function, config](Vm* on, Op* self) { return ops::Repurpose(on, self, function, config); }, function};
  });
}

int moult_vm_tunnel(struct moult_vm* vm, uint64_t function, const struct moult_op_options* options,
                    struct moult_op** op) {
  return StartSimple(vm, function, options, op, "tunnel", kQuick, ops::Tunnel, NeedConnections);
}

int moult_vm_logs(struct moult_vm* vm, const struct moult_logs_options* logs,
                  const struct moult_op_options* options, struct moult_op** op) {
  return Start(vm, options, op, "logs", kQuick, [&]() -> absl::StatusOr<Made> {
    MOULT_ASSIGN_OR_RETURN(const moult_logs_options ours, TakeOptions(logs, "moult_logs_options"));
    MOULT_RETURN_IF_ERROR(NeedFunction(ours.function));
    MOULT_RETURN_IF_ERROR(NeedConnections(vm));
    return Made{[ours](Vm* on, Op* self) {
      return ops::Logs(on, self, ours.function, ours.tail_bytes, ours.follow != 0);
    }, ours.function};
  });
}

enum moult_op_state moult_op_state(const struct moult_op* op) {
  if (!op->op->done()) return MOULT_OP_RUNNING;
  return op->op->status().ok() ? MOULT_OP_SUCCEEDED : MOULT_OP_FAILED;
}

int moult_op_result(const struct moult_op* op) {
  if (op->op->done()) return Report(op->op->status());
  return Report(EINPROGRESS, absl::StatusCode::kUnavailable, "the operation is still running");
}

int moult_op_wait(struct moult_op* op, int timeout_ms) {
  using moult::host::Clock;
  const auto end =
      timeout_ms < 0 ? Clock::time_point::max() : Clock::now() + std::chrono::milliseconds(timeout_ms);
  bool late = false;
  const int failed = Guarded([&]() -> absl::Status {
    while (!op->op->done()) {
      Vm* const vm = *op->link;  // Not null: closing it would have ended op.
      if (vm->processing()) {
        return absl::FailedPreconditionError("moult_op_wait: called from inside a callback");
      }
      vm->Process();
      if (op->op->done()) break;
      int wait = -1;
      if (end != Clock::time_point::max()) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now()).count();
        late = left <= 0;
        if (late) break;
        wait = static_cast<int>(left);
      }
      // The operation's own deadline makes the descriptor readable, at the latest.
      pollfd poll_fd{vm->fd(), POLLIN, 0};
      if (poll(&poll_fd, 1, wait) < 0 && errno != EINTR) return moult::ErrnoStatus("poll");
    }
    return absl::OkStatus();
  });
  if (failed != 0) return failed;
  if (late) return Report(ETIME, absl::StatusCode::kDeadlineExceeded, "the operation is still running");
  return moult_op_result(op);
}

const char* moult_op_result_json(const struct moult_op* op) { return op->op->json().c_str(); }

int moult_op_numbers(const struct moult_op* op, struct moult_result* result) {
  if (!op->op->done()) return moult_op_result(op);
  return Guarded([&]() -> absl::Status {
    if (result == nullptr || result->size < sizeof(size_t)) {
      return absl::InvalidArgumentError("moult_result: set its size to sizeof the structure (MOULT_INIT)");
    }
    const moult::host::OpResult& from = op->op->result();
    const size_t size = result->size;
    const moult_result ours = {
        size,       from.function,        op->op->total_us(),      from.stopped_us,
        from.bytes, from.discarded_bytes, from.detached ? 1u : 0u, static_cast<uint32_t>(from.pages)};
    std::memset(result, 0, size);
    std::memcpy(result, &ours, std::min(size, sizeof(ours)));
    return absl::OkStatus();
  });
}

int moult_op_take_fd(struct moult_op* op) {
  if (op->op->fd.valid()) return op->op->fd.Release();
  return Report(absl::NotFoundError("the operation has no descriptor, or it was taken already"));
}

int moult_op_run(struct moult_op* op) {
  // A copy, so that the worker stays when the caller's thread loses the race for the last reference.
  const std::shared_ptr<moult::host::Worker> worker = op->op->worker();
  if (worker->Run()) return 0;
  return Report(absl::NotFoundError("the operation has no work to do"));
}

void moult_op_cancel(struct moult_op* op) {
  if (op->op->strand() != nullptr) op->op->strand()->Cancel();
}

void moult_op_free(struct moult_op* op) {
  if (op == nullptr) return;
  op->op->on_done = nullptr;
  op->op->handle = nullptr;
  moult_op_cancel(op);
  delete op;
}

}  // extern "C"
