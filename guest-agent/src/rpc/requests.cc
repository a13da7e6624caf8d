// SPDX-License-Identifier: Apache-2.0
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>

#include "function/endpoint.h"
#include "image/host.h"
#include "image/version.h"
#include "image/window.h"
#include "rpc/iomem.h"
#include "rpc/log.h"
#include "rpc/server.h"

namespace moult::agent {
namespace {

using rpc::FunctionState;
using rpc::RequestBody;

int64_t RealtimeMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

uint64_t FunctionOf(const rpc::RequestT& request) {
  const auto& body = request.body;
  switch (body.type) {
    case RequestBody::Freeze:
      return body.AsFreeze()->function;
    case RequestBody::Thaw:
      return body.AsThaw()->function;
    case RequestBody::Kill:
      return body.AsKill()->function;
    case RequestBody::Forget:
      return body.AsForget()->function;
    case RequestBody::Capture:
      return body.AsCapture()->function;
    case RequestBody::Detach:
      return body.AsDetach()->function;
    case RequestBody::Tunnel:
      return body.AsTunnel()->function;
    case RequestBody::Logs:
      return body.AsLogs()->function;
    case RequestBody::Pages:
      return body.AsPages()->function;
    default:
      return 0;
  }
}

}  // namespace

void Server::Answer(Connection& connection, uint64_t call, const rpc::ResponseT& response) {
  const std::string payload = rpc::Serialize(response);
  const auto header = rpc::EncodeHeader({rpc::FrameKind::kResponse, call, payload.size()});
  connection.Queue(std::string(header.data(), header.size()) + payload);
  if (!connection.Write().ok()) connection.dead = true;
}

void Server::Refuse(Connection& connection, uint64_t call, const absl::Status& status) {
  Answer(connection, call, rpc::ErrorResponse(status));
}

void Server::Serve(const std::shared_ptr<Connection>& connection) {
  auto frame = connection->Read();
  if (!frame.ok()) {
    if (!absl::IsUnavailable(frame.status()))
      Log(absl::StrCat("closed a connection: ", frame.status().message()));
    connection->dead = true;
    return;
  }
  if (!frame->has_value()) return;
  const uint64_t call = (*frame)->id;
  auto request = rpc::ParseRequest((*frame)->payload);
  frame->reset();  // Before a fork: its memory is wiped as it goes, and a worker would have a copy.
  if (!request.ok()) {
    Refuse(*connection, call, request.status());
    // An unknown verb is a newer host's; bytes that are no message are nobody's.
    if (!absl::IsUnimplemented(request.status())) connection->closing = true;
    return;
  }
  serving_ = *std::move(request);
  const absl::Status status = Handle(connection, call, *serving_);
  // For the same reason a worker's request lives as long as the worker.
  std::unique_ptr<const rpc::RequestT> served = std::move(serving_);
  if (status.ok() && !workers_.empty() && workers_.back().connection == connection)
    workers_.back().request = std::move(served);
  if (status.ok()) return;
  const char* verb = rpc::VerbName(served->body.type);
  Log(absl::StrCat(verb, ": ", status.ToString()));
  Refuse(*connection, call, Annotate(status, verb));
  // The page content that follows has no taker.
  if (HasData(*served)) connection->closing = true;
}

absl::Status Server::Handle(const std::shared_ptr<Connection>& connection, uint64_t call,
                            const rpc::RequestT& request) {
  const RequestBody verb = request.body.type;
  if (!connection->said_hello && verb != RequestBody::Hello)
    return absl::FailedPreconditionError("say Hello first");
  if (!config_.Allows(rpc::VerbName(verb))) {
    return absl::PermissionDeniedError(
        "this agent's configuration does not allow it; see \"verbs\" in its configuration");
  }
  switch (verb) {
    case RequestBody::Hello:
      return HandleHello(*connection, call, *request.body.AsHello());
    case RequestBody::List:
      HandleList(*connection, call);
      return absl::OkStatus();
    case RequestBody::Kill:
      return HandleKill(connection, call, FunctionOf(request));
    case RequestBody::Forget:
      return HandleForget(*connection, call, FunctionOf(request));
    case RequestBody::Release:
      return HandleRelease(*connection, call, *request.body.AsRelease());
    case RequestBody::Run:
    case RequestBody::Attach:
      return HandleStart(connection, call, request);
    case RequestBody::CaptureEnd:
      return absl::FailedPreconditionError("no capture goes on over this connection");
    case RequestBody::Tunnel:
      return HandleTunnel(connection, call, request);
    case RequestBody::DetachPages:
    case RequestBody::DetachEnd:
      return absl::FailedPreconditionError("no detach goes on over this connection");
    default:
      return HandleWork(connection, call, request);
  }
}

// None without the driver, or with one of another version: `doctor` says so, and templates are copied.
void Server::AddWindows(rpc::HelloReplyT& reply) {
  const auto windows = engine::ListWindows();
  if (!windows.ok() || windows->empty()) return;
  reply.features.push_back("window");
  reply.struct_pages = true;
  for (const moult_window& window : *windows) {
    // The place in the list is the number: one that is gone leaves an empty entry.
    while (reply.windows.size() <= window.id) reply.windows.push_back(std::make_unique<rpc::WindowT>());
    reply.windows[window.id]->gpa = window.gpa;
    reply.windows[window.id]->size = window.length;
    reply.struct_pages = reply.struct_pages && (window.flags & MOULT_WINDOW_STRUCT_PAGES) != 0;
  }
}

absl::Status Server::HandleHello(Connection& connection, uint64_t call, const rpc::HelloT& hello) {
  if (hello.version_min > rpc::kProtocolVersion || hello.version_max < rpc::kProtocolVersion) {
    return absl::FailedPreconditionError(absl::StrCat("the host speaks versions ", hello.version_min, " to ",
                                                      hello.version_max, " of the protocol, this agent ",
                                                      rpc::kProtocolVersion, "; update the older one"));
  }
  connection.said_hello = true;
  rpc::HelloReplyT reply;
  reply.version = rpc::kProtocolVersion;
  reply.agent_version = engine::kVersion;
  reply.features = {"copy", "in_place", "tunnel", "logs"};
  if (use_cgroup_) reply.features.push_back("freeze");
  if (config_.Allows("Release")) reply.features.push_back("release");
  if (use_cgroup_ && config_.Allows("Pages")) reply.features.push_back("pages");
  AddWindows(reply);
  reply.boot_id = engine::BootId();
  utsname name{};
  uname(&name);
  reply.kernel_release = name.release;
  for (const RequestBody body : rpc::EnumValuesRequestBody()) {
    if (body != RequestBody::NONE && config_.Allows(rpc::VerbName(body)))
      reply.verbs.push_back(rpc::VerbName(body));
  }
  reply.ram_bytes = RamBytes();
  Answer(connection, call, rpc::MakeResponse(std::move(reply)));
  return absl::OkStatus();
}

void Server::HandleList(Connection& connection, uint64_t call) {
  rpc::ListReplyT reply;
  for (const auto& [id, function] : functions_) {
    auto& info = reply.functions.emplace_back(std::make_unique<rpc::FunctionInfoT>(function->info));
    if (!function->cgroup) continue;
    info->memory_bytes = function->cgroup->MemoryBytes();
    const MemoryUse use = function->cgroup->Use();
    info->anon_bytes = use.anon;
    info->shmem_bytes = use.shmem;
    info->file_bytes = use.file;
    info->kernel_bytes = use.kernel;
    info->faults = use.faults;
  }
  Answer(connection, call, rpc::MakeResponse(std::move(reply)));
}

absl::StatusOr<Function*> Server::Find(uint64_t id) {
  const auto it = functions_.find(id);
  if (it == functions_.end())
    return absl::NotFoundError(absl::StrCat("no function ", id, "; List tells which there are"));
  return it->second.get();
}

absl::Status Server::HandleKill(const std::shared_ptr<Connection>& connection, uint64_t call, uint64_t id) {
  MOULT_ASSIGN_OR_RETURN(Function* const function, Find(id));
  if (function->info.state == FunctionState::Ended)
    return absl::FailedPreconditionError(
        absl::StrCat("function ", id, " has ended: ", function->info.end_reason));
  if (!function->busy.empty())
    return absl::FailedPreconditionError(absl::StrCat("function ", id, ": ", function->busy,
                                                      " goes on; end it first, or close its connection"));
  function->busy = "Kill";
  function->kill_asked = true;
  kills_.push_back({connection, call, id});
  connection->busy = true;
  if (syscall(SYS_pidfd_send_signal, function->init_pidfd.get(), SIGKILL, nullptr, 0) < 0 && errno != ESRCH) {
    kills_.pop_back();
    connection->busy = false;
    function->busy.clear();
    return ErrnoStatus(absl::StrCat("kill function ", id));
  }
  return absl::OkStatus();
}

absl::Status Server::HandleForget(Connection& connection, uint64_t call, uint64_t id) {
  MOULT_ASSIGN_OR_RETURN(Function* const function, Find(id));
  if (function->info.state != FunctionState::Ended)
    return absl::FailedPreconditionError(absl::StrCat(
        "function ", id, " is ", rpc::EnumNameFunctionState(function->info.state), "; Kill it first"));
  Drop(id);
  Answer(connection, call, rpc::MakeResponse(rpc::DoneT{}));
  return absl::OkStatus();
}

absl::Status Server::HandleRelease(Connection& connection, uint64_t call, const rpc::ReleaseT& release) {
  DropKept(release.window, release.offset, release.length);
  MOULT_RETURN_IF_ERROR(engine::ReleaseWindow(release.window, release.offset, release.length));
  Answer(connection, call, rpc::MakeResponse(rpc::DoneT{}));
  return absl::OkStatus();
}

absl::Status Server::HandleStart(const std::shared_ptr<Connection>& connection, uint64_t call,
                                 const rpc::RequestT& request) {
  const rpc::AttachT* attach = request.body.AsAttach();
  const rpc::FunctionSpecT& spec = attach != nullptr ? *attach->spec : *request.body.AsRun()->spec;
  const auto alive = std::count_if(functions_.begin(), functions_.end(), [](const auto& entry) {
    return entry.second->info.state != FunctionState::Ended;
  });
  if (alive >= config_.max_functions) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "there are ", alive, " functions, the most that this agent takes; end one, or raise max_functions"));
  }
  if (attach != nullptr && IsShort(*attach) && FindStandby(KeyOf(*attach)) == standby_.end())
    return NotKept(*attach);
  MOULT_ASSIGN_OR_RETURN(auto function, TakeShell());
  function->shell = false;
  function->info.spec = std::make_unique<rpc::FunctionSpecT>(spec);
  function->info.state = attach != nullptr ? FunctionState::Attaching : FunctionState::Starting;
  function->info.started_realtime_ms = RealtimeMs();
  if (attach != nullptr) {
    function->info.generation = next_generation_++;
    function->info.template_name = attach->name;
  }
  Function& kept = *(functions_[function->info.id] = std::move(function));
  absl::Status status = Save(kept);
  if (status.ok()) status = StartWorker(connection, call, request, &kept);
  if (!status.ok()) Drop(kept.info.id);
  return status;
}

// An endpoint that accepts at once needs no worker.
absl::Status Server::HandleTunnel(const std::shared_ptr<Connection>& connection, uint64_t call,
                                  const rpc::RequestT& request) {
  MOULT_ASSIGN_OR_RETURN(Function* const function, Find(FunctionOf(request)));
  if (function->info.state == FunctionState::Ended)
    return absl::FailedPreconditionError(
        absl::StrCat("function ", function->info.id, " has ended: ", function->info.end_reason));
  MOULT_RETURN_IF_ERROR(CheckStreams());
  const rpc::EndpointT* endpoint = function->info.spec->endpoint.get();
  Watch at_once;
  at_once.deadline = Clock::now();
  auto connected = endpoint != nullptr ? ConnectEndpoint(function->init_pid, *endpoint, at_once)
                                       : absl::StatusOr<UniqueFd>(absl::NotFoundError("no endpoint"));
  if (!connected.ok()) return StartWorker(connection, call, request, function);
  Answer(*connection, call, rpc::MakeResponse(rpc::DoneT{}));
  // Its answer must be on its way before the first byte of the function's.
  const absl::Status taken = connection->has_output() ? absl::UnavailableError("the host does not read its answer")
                                                      : relay_.Take(connection->fd(), connected->get());
  if (!taken.ok()) Log(absl::StrCat("Tunnel: ", taken.message()));
  connection->dead = true;  // here; the relay has it
  return absl::OkStatus();
}

absl::Status Server::HandleWork(const std::shared_ptr<Connection>& connection, uint64_t call,
                                const rpc::RequestT& request) {
  const RequestBody verb = request.body.type;
  const bool of_all = verb == RequestBody::Pages && FunctionOf(request) == 0;
  if (verb == RequestBody::Doctor || of_all) return StartWorker(connection, call, request, nullptr);
  MOULT_ASSIGN_OR_RETURN(Function* const function, Find(FunctionOf(request)));
  const FunctionState state = function->info.state;
  const uint64_t id = function->info.id;
  if (verb == RequestBody::Logs) return StartWorker(connection, call, request, function);
  if (state == FunctionState::Ended)
    return absl::FailedPreconditionError(
        absl::StrCat("function ", id, " has ended: ", function->info.end_reason));
  if (!function->busy.empty())
    return absl::FailedPreconditionError(
        absl::StrCat("function ", id, ": ", function->busy, " goes on; try again when it has ended"));
  return StartWorker(connection, call, request, function);
}

}  // namespace moult::agent
