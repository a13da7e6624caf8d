// SPDX-License-Identifier: Apache-2.0
//
// Operations that are one request and its answer.
#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "session/ops.h"

namespace moult::host::ops {
namespace {

// While the agent is still at what was given up.
constexpr std::chrono::seconds kClashes(1);
constexpr std::chrono::milliseconds kClashPause(20);

// A verb that is answered with a function.
template <typename Body>
Task<absl::Status> AskForFunction(Vm* vm, Op* op, Body body) {
  MOULT_CO_ASSIGN_OR_RETURN(Lease lease, co_await vm->Acquire(op));
  auto reply = co_await lease->Call<rpc::FunctionReplyT>(op->strand(), std::move(body));
  if (!reply.ok()) co_return reply.status();
  op->AddAgentPhases(reply->phases);
  op->EndPhase("agent");
  op->result().function = reply->function->id;
  op->result().json["function"] = ToJson(*reply->function);
  op->result().json["notes"] = reply->notes;
  co_return absl::OkStatus();
}

// A verb that is answered with Done.
template <typename Body>
Task<absl::Status> Ask(Vm* vm, Op* op, Body body) {
  op->result().function = body.function;
  MOULT_CO_ASSIGN_OR_RETURN(Lease lease, co_await vm->Acquire(op));
  auto reply = co_await lease->Call<rpc::DoneT>(op->strand(), std::move(body));
  if (!reply.ok()) co_return reply.status();
  op->AddAgentPhases(reply->phases);
  op->EndPhase("agent");
  co_return absl::OkStatus();
}

// A verb after which the connection is a byte stream.
template <typename Body>
Task<absl::Status> AskForStream(Vm* vm, Op* op, Body body) {
  op->result().function = body.function;
  MOULT_CO_ASSIGN_OR_RETURN(Lease lease, co_await vm->Acquire(op));
  auto reply = co_await lease->Call<rpc::DoneT>(op->strand(), std::move(body));
  if (!reply.ok()) co_return reply.status();
  op->EndPhase("agent");
  op->fd = lease->TakeFd();
  lease->Break();
  co_return absl::OkStatus();
}

Json Check(const char* name, bool ok, std::string detail, const char* remedy) {
  return {{"name", name}, {"ok", ok}, {"detail", std::move(detail)}, {"remedy", ok ? "" : remedy}};
}

// No fault, but good to know.
Json Note(Json check) {
  check["note"] = true;
  return check;
}

// What only the host can see.
void AddHostChecks(Vm* vm, Json* checks) {
  checks->push_back(Check("host.ram", !vm->memory().empty(),
                          absl::StrCat(vm->memory().size(), " bytes of guest RAM registered"),
                          "give the library the VM's RAM regions: without, no detach, and copies instead of "
                          "reads in place"));
  checks->push_back(Check("host.store", vm->config().store != nullptr,
                          vm->config().store != nullptr ? vm->config().store->path() : "none",
                          "give the library a store: without, no capture and no attach"));
  if (vm->windows().empty()) {
    checks->push_back(Note(Check("host.window", true, "this VM has none: templates are copied, and a detach wipes in the guest", "")));
  } else {
    checks->push_back(Check("host.window", true, absl::StrCat(vm->windows().size(), " windows registered"), ""));
  }
  for (const Window& window : vm->windows()) {
    const auto& theirs = vm->hello().windows;
    const uint32_t number = window.config().number;
    const bool there = number < theirs.size() && theirs[number]->size != 0;
    const bool same = there && (window.config().gpa == 0 || theirs[number]->gpa == window.config().gpa);
    checks->push_back(Check("host.window_matches", same,
                            there ? absl::StrCat("window ", number, ": the guest's driver has ",
                                                 theirs[number]->size, " bytes at ", theirs[number]->gpa)
                                  : absl::StrCat("window ", number, ": the guest's driver does not have it"),
                            "load the guest's driver, and give both sides the same window"));
  }
}

}  // namespace

Task<absl::Status> Hello(Vm* vm, Op* op) {
  MOULT_CO_ASSIGN_OR_RETURN(Lease lease, co_await vm->Acquire(op));
  // Acquire may have found an idle connection: ask the agent that is there now.
  rpc::ListT list;
  auto reply = co_await lease->Call<rpc::ListReplyT>(op->strand(), std::move(list), rpc::kMaxResponse);
  if (!reply.ok()) co_return reply.status();
  vm->Reconcile(*reply);
  op->EndPhase("agent");
  op->result().json["hello"] = ToJson(vm->hello());
  co_return absl::OkStatus();
}

Task<absl::Status> Doctor(Vm* vm, Op* op) {
  MOULT_CO_ASSIGN_OR_RETURN(Lease lease, co_await vm->Acquire(op));
  rpc::DoctorT doctor;
  auto reply = co_await lease->Call<rpc::DoctorReplyT>(op->strand(), std::move(doctor));
  if (!reply.ok()) co_return reply.status();
  op->EndPhase("agent");
  Json checks = Json::array();
  for (const auto& check : reply->checks) {
    // The driver is for windows: a VM that was given none has no device for it.
    const bool needless = check->name == "driver" && !check->ok && vm->windows().empty();
    Json one = {{"name", check->name}, {"ok", check->ok || needless}, {"detail", check->detail}, {"remedy", needless ? "" : check->remedy}};
    checks.push_back(needless ? Note(std::move(one)) : std::move(one));
  }
  AddHostChecks(vm, &checks);
  op->result().json["checks"] = std::move(checks);
  co_return absl::OkStatus();
}

Task<absl::Status> List(Vm* vm, Op* op) {
  MOULT_CO_ASSIGN_OR_RETURN(Lease lease, co_await vm->Acquire(op));
  rpc::ListT list;
  auto reply = co_await lease->Call<rpc::ListReplyT>(op->strand(), std::move(list), rpc::kMaxResponse);
  if (!reply.ok()) co_return reply.status();
  vm->Reconcile(*reply);
  op->EndPhase("agent");
  Json functions = Json::array();
  for (const auto& function : reply->functions) {
    functions.push_back(ToJson(*function));
    Json& told = functions.back();
    if (const std::string why = vm->LostBecause(function->id); told.contains("end_reason") && !why.empty())
      told["end_reason"] = absl::StrCat(function->end_reason, "; ", why);
    if (!vm->windows().empty()) {
      uint64_t shown = 0;
      for (const Window& window : vm->windows()) shown += window.ShownTo(function->id);
      functions.back()["template_bytes"] = shown;
    }
    if (vm->pager() == nullptr) continue;
    const PagerCounts counts = vm->pager()->owner_stats(function->id);
    functions.back()["offloaded_bytes"] = counts.offloaded_bytes + counts.zero_bytes;
    functions.back()["recall_faults"] = counts.faults;
    functions.back()["lost_pages"] = counts.lost_pages;
  }
  op->result().json["functions"] = std::move(functions);
  co_return absl::OkStatus();
}

Task<absl::Status> Run(Vm* vm, Op* op, std::shared_ptr<const rpc::FunctionSpecT> spec) {
  rpc::RunT run;
  run.spec = std::make_unique<rpc::FunctionSpecT>(*spec);
  return AskForFunction(vm, op, std::move(run));
}

Task<absl::Status> Freeze(Vm* vm, Op* op, uint64_t function) {
  return AskForFunction(vm, op, Of<rpc::FreezeT>(function));
}

Task<absl::Status> Thaw(Vm* vm, Op* op, uint64_t function) {
  MOULT_CO_RETURN_IF_ERROR(MayLive(vm, function));
  co_return co_await AskForFunction(vm, op, Of<rpc::ThawT>(function));
}

Task<absl::Status> Kill(Vm* vm, Op* op, uint64_t function) {
  op->result().function = function;
  MOULT_CO_ASSIGN_OR_RETURN(const Doom doom, co_await Condemn(vm, op, function));
  const auto until = doom.clashes ? Clock::now() + kClashes : Clock::time_point::min();
  absl::Status killed = co_await Ask(vm, op, Of<rpc::KillT>(function));
  while (absl::IsFailedPrecondition(killed) && Clock::now() < until) {
    MOULT_CO_RETURN_IF_ERROR(co_await Pause(op, kClashPause, "agent"));
    killed = co_await Ask(vm, op, Of<rpc::KillT>(function));
  }
  if (!killed.ok()) co_return co_await Spare(vm, op, function, doom, std::move(killed));
  vm->FunctionGone(function);
  co_return absl::OkStatus();
}

Task<absl::Status> Forget(Vm* vm, Op* op, uint64_t function) {
  return Ask(vm, op, Of<rpc::ForgetT>(function));
}

Task<absl::Status> Tunnel(Vm* vm, Op* op, uint64_t function) {
  return AskForStream(vm, op, Of<rpc::TunnelT>(function));
}

Task<absl::Status> Logs(Vm* vm, Op* op, uint64_t function, uint64_t tail_bytes, bool follow) {
  auto logs = Of<rpc::LogsT>(function);
  logs.tail_bytes = tail_bytes;
  logs.follow = follow;
  return AskForStream(vm, op, std::move(logs));
}

}  // namespace moult::host::ops
