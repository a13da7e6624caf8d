// SPDX-License-Identifier: Apache-2.0
#include "methods.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "moult/pager.h"
#include "moult/pages.h"
#include "params.h"

namespace moult::control {
namespace {

struct Context {
  const Target& target;
  Params& params;
  moult_op_options options;
  moult_op* op = nullptr;
  uint64_t requested = 0;
};

// A method that starts an operation: checks its parameters and calls libmoult, whose result it returns.
using OpStarter = absl::StatusOr<int> (*)(Context&);

absl::StatusOr<int> StartRun(Context& c) {
  const Json function = c.params.Object("function");
  MOULT_RETURN_IF_ERROR(c.params.status());
  return moult_vm_run(c.target.vm, function.dump(-1, ' ', false, Json::error_handler_t::replace).c_str(),
                      &c.options, &c.op);
}

absl::StatusOr<int> StartCapture(Context& c) {
  moult_capture_options capture = MOULT_INIT(capture);
  capture.function = c.params.Number("function");
  const std::string name = c.params.Text("name");
  capture.name = name.c_str();
  capture.end = c.params.Flag("end") ? 1 : 0;
  capture.pages = c.params.Choice("pages", {"auto", "in_place", "copy"});
  MOULT_RETURN_IF_ERROR(c.params.status());
  return moult_vm_capture(c.target.vm, &capture, &c.options, &c.op);
}

absl::StatusOr<int> StartFork(Context& c) {
  moult_fork_options fork = MOULT_INIT(fork);
  fork.function = c.params.Number("function");
  const std::string name = c.params.Text("name");
  const std::string to = c.params.Text("to");
  fork.name = name.c_str();
  fork.to = to.c_str();
  if (c.params.Flag("keep")) fork.flags |= MOULT_FORK_KEEP;
  fork.pages = c.params.Choice("pages", {"auto", "in_place", "copy"});
  MOULT_RETURN_IF_ERROR(c.params.status());
  return moult_vm_fork(c.target.vm, &fork, &c.options, &c.op);
}

// What attach and repurpose share.
struct AttachParams {
  explicit AttachParams(Params* params)
      : name(params->Text("name")), from(params->TextOr("from", "")), digest(params->TextOr("digest", "")) {
    options.name = name.c_str();
    options.pages = params->Choice("pages", {"auto", "in_place", "copy"});
    if (!from.empty()) options.from = from.c_str();
    if (!digest.empty()) options.digest = digest.c_str();
  }
  AttachParams(const AttachParams&) = delete;
  AttachParams& operator=(const AttachParams&) = delete;
  const std::string name, from, digest;
  moult_attach_options options = MOULT_INIT(options);
};

absl::StatusOr<int> StartAttach(Context& c) {
  const AttachParams params(&c.params);
  const moult_attach_options& attach = params.options;
  MOULT_RETURN_IF_ERROR(c.params.status());
  return moult_vm_attach(c.target.vm, &attach, &c.options, &c.op);
}

absl::StatusOr<int> StartRepurpose(Context& c) {
  const uint64_t function = c.params.Number("function");
  AttachParams params(&c.params);
  moult_attach_options& attach = params.options;
  if (c.params.Flag("settled")) attach.flags |= MOULT_ATTACH_SETTLED;
  MOULT_RETURN_IF_ERROR(c.params.status());
  return moult_vm_repurpose(c.target.vm, function, &attach, &c.options, &c.op);
}

absl::StatusOr<int> StartPages(Context& c) {
  moult_pages_options pages = MOULT_INIT(pages);
  pages.function = c.params.NumberOr("function", 0);
  if (c.params.Flag("runs")) pages.flags |= MOULT_PAGES_JSON_RUNS;
  MOULT_RETURN_IF_ERROR(c.params.status());
  return moult_vm_pages(c.target.vm, &pages, &c.options, &c.op);
}

absl::StatusOr<int> StartWhy(Context& c) {
  const uint64_t hva = c.params.NumberOr("hva", 0);
  const uint64_t gpa = hva == 0 ? c.params.Number("gpa") : 0;
  MOULT_RETURN_IF_ERROR(c.params.status());
  // SAFETY: an address to be looked up; nothing reads there.
  return moult_vm_why(c.target.vm, gpa, reinterpret_cast<const void*>(hva), &c.options, &c.op);
}

absl::StatusOr<int> StartOffload(Context& c) {
  moult_offload_options offload = MOULT_INIT(offload);
  offload.function = c.params.Number("function");
  if (c.params.Flag("cold_only")) offload.flags |= MOULT_OFFLOAD_COLD_ONLY;
  if (c.params.Flag("run_on")) offload.flags |= MOULT_OFFLOAD_RUN_ON;
  const uint32_t segment = c.params.Choice("segment", {"all", "runtime", "init", "exec"});
  if (segment != 0) offload.segments = 1u << (segment - 1);
  offload.most_bytes = c.params.NumberOr("most_bytes", 0);
  MOULT_RETURN_IF_ERROR(c.params.status());
  return moult_vm_offload(c.target.vm, &offload, &c.options, &c.op);
}

absl::StatusOr<int> StartRecall(Context& c) {
  moult_recall_options recall = MOULT_INIT(recall);
  recall.function = c.params.Number("function");
  recall.prefetch = c.params.Choice("prefetch", {"working-set", "all", "none"});
  MOULT_RETURN_IF_ERROR(c.params.status());
  return moult_vm_recall(c.target.vm, &recall, &c.options, &c.op);
}

absl::StatusOr<int> StartLogs(Context& c) {
  moult_logs_options logs = MOULT_INIT(logs);
  logs.function = c.params.Number("function");
  logs.follow = c.params.Flag("follow") ? 1 : 0;
  logs.tail_bytes = c.params.NumberOr("tail_bytes", 0);
  MOULT_RETURN_IF_ERROR(c.params.status());
  return moult_vm_logs(c.target.vm, &logs, &c.options, &c.op);
}

// Methods without parameters, and those whose only one is the function.
template <auto kCall>
absl::StatusOr<int> StartPlain(Context& c) {
  MOULT_RETURN_IF_ERROR(c.params.status());
  return kCall(c.target.vm, &c.options, &c.op);
}
template <auto kCall>
absl::StatusOr<int> StartOnFunction(Context& c) {
  const uint64_t function = c.params.Number("function");
  MOULT_RETURN_IF_ERROR(c.params.status());
  return kCall(c.target.vm, function, &c.options, &c.op);
}

absl::StatusOr<int> StartInvoke(Context& c) {
  c.requested = c.params.Number("function");
  MOULT_RETURN_IF_ERROR(c.params.status());
  return moult_vm_tunnel(c.target.vm, c.requested, &c.options, &c.op);
}

struct OpMethod {
  const char* name;
  OpStarter start;
  bool mutates;
  bool stream;
};

constexpr OpMethod kOpMethods[] = {
    {"hello", StartPlain<moult_vm_hello>, false, false},
    {"doctor", StartPlain<moult_vm_doctor>, false, false},
    {"ps", StartPlain<moult_vm_list>, false, false},
    {"pages", StartPages, false, false},
    {"why", StartWhy, false, false},
    {"run", StartRun, true, false},
    {"freeze", StartOnFunction<moult_vm_freeze>, true, false},
    {"thaw", StartOnFunction<moult_vm_thaw>, true, false},
    {"kill", StartOnFunction<moult_vm_kill>, true, false},
    {"forget", StartOnFunction<moult_vm_forget>, true, false},
    {"capture", StartCapture, true, false},
    {"fork", StartFork, true, false},
    {"attach", StartAttach, true, false},
    {"detach", StartOnFunction<moult_vm_detach>, true, false},
    {"repurpose", StartRepurpose, true, false},
    {"offload", StartOffload, true, false},
    {"recall", StartRecall, true, false},
    {"recall_all", StartPlain<moult_vm_recall_all>, true, false},
    {"invoke", StartInvoke, false, true},
    {"logs", StartLogs, false, true},
};

absl::StatusOr<Json> TakeJson(int result, char* text) {
  if (result < 0) return LastError();
  absl::StatusOr<Json> json = ParseJson(text);
  moult_free(text);
  return json;
}

using DiskMethod = absl::StatusOr<Json> (*)(moult_store*, const std::string& name);

absl::StatusOr<Json> ListTemplates(moult_store* store, const std::string&) {
  char* text = nullptr;
  const int result = moult_store_list_json(store, &text);
  MOULT_ASSIGN_OR_RETURN(Json list, TakeJson(result, text));
  return Json{{"templates", std::move(list)}};
}

absl::StatusOr<Json> ShowTemplate(moult_store* store, const std::string& name) {
  char* text = nullptr;
  const int result = moult_store_show_json(store, name.c_str(), &text);
  MOULT_ASSIGN_OR_RETURN(Json shown, TakeJson(result, text));
  return Json{{"template", std::move(shown)}};
}

absl::StatusOr<Json> VerifyTemplate(moult_store* store, const std::string& name) {
  if (moult_store_verify(store, name.c_str()) < 0) return LastError();
  return Json{{"name", name}, {"whole", true}};
}

absl::StatusOr<Json> RemoveTemplate(moult_store* store, const std::string& name) {
  if (moult_store_remove(store, name.c_str()) < 0) return LastError();
  return Json{{"name", name}, {"removed", true}};
}

struct StoreMethod {
  const char* name;
  DiskMethod run;
  bool named;
  bool mutates;
};

constexpr StoreMethod kStoreMethods[] = {
    {"templates.list", ListTemplates, false, false},
    {"templates.show", ShowTemplate, true, false},
    {"templates.verify", VerifyTemplate, true, false},
    {"templates.remove", RemoveTemplate, true, true},
};

absl::StatusOr<Call> StartOp(const Target& target, const OpMethod& method, const Json& params,
                             const moult_op_options& options) {
  MOULT_RETURN_IF_ERROR(NeedVm(target, method.name));
  Params reader(params);
  Context context{target, reader, options};
  context.options.timeout_ms = static_cast<uint32_t>(reader.NumberOr("timeout_ms", 0, UINT32_MAX));
  MOULT_ASSIGN_OR_RETURN(const int result, method.start(context));
  if (result < 0) return LastError();
  return Call{.op = context.op, .disk = nullptr, .stream = method.stream, .mutates = method.mutates, .requested = context.requested};
}

absl::StatusOr<Call> StartDisk(const Target& target, const StoreMethod& method, const Json& params) {
  if (target.store == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat(method.name, ": there is no template store here; give one (store=DIR, --store DIR)"));
  }
  Params reader(params);
  const std::string name = method.named ? reader.Text("name") : "";
  MOULT_RETURN_IF_ERROR(reader.status());
  return Call{.op = nullptr,
              .disk = [run = method.run, store = target.store, name] { return run(store, name); },
              .stream = false,
              .mutates = method.mutates};
}

}  // namespace

absl::Status NeedVm(const Target& target, std::string_view method) {
  if (target.vm != nullptr) return absl::OkStatus();
  if (!target.fault.ok()) return target.fault;
  return absl::FailedPreconditionError(absl::StrCat(std::string(method), ": there is no VM here"));
}

absl::Status LastError() {
  return absl::Status(static_cast<absl::StatusCode>(moult_last_error_code()), moult_last_error());
}

absl::StatusOr<Call> Start(const Target& target, std::string_view method, const Json& params,
                           const moult_op_options& options) {
  for (const OpMethod& candidate : kOpMethods) {
    if (method == candidate.name) return StartOp(target, candidate, params, options);
  }
  for (const StoreMethod& candidate : kStoreMethods) {
    if (method == candidate.name) return StartDisk(target, candidate, params);
  }
  return absl::UnimplementedError(absl::StrCat("there is no method ", std::string(method)));
}

uint64_t ChangedBy(std::string_view method, const Json& params) {
  const auto function = params.find("function");
  const bool changes = std::any_of(std::begin(kOpMethods), std::end(kOpMethods), [&](const OpMethod& one) { return method == one.name && one.mutates; });
  return changes && function != params.end() && function->is_number_unsigned() ? function->get<uint64_t>() : 0;
}

absl::Status Outcome(const moult_op* op, Json* detail) {
  absl::StatusOr<Json> json = ParseJson(moult_op_result_json(op));
  *detail = json.ok() ? *std::move(json) : Json::object();
  return moult_op_result(op) < 0 ? LastError() : absl::OkStatus();
}

}  // namespace moult::control
