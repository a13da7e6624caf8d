// SPDX-License-Identifier: Apache-2.0
//
// A template becomes a function. Everything that can be refused is refused before the agent hears of it.
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "moult/protocol/limits.h"
#include "pool/direct_pages.h"
#include "session/ops.h"

namespace moult::host::ops {
namespace {

constexpr uint64_t kStreamStep = 1 << 20;

using TemplatePtr = std::shared_ptr<const Template>;

// The template, checked to its last byte, and allowed here. One from a pool elsewhere may lack pages, which
// are checked when they come.
Task<absl::StatusOr<TemplatePtr>> Prepare(Vm* vm, Op* op, AttachConfig config) {
  const std::string& name = config.name;
  absl::StatusOr<TemplatePtr> content = absl::UnknownError("not read");
  std::vector<std::string> notes;
  const Clock::time_point deadline = op->strand()->deadline();
  std::function<absl::Status()> work = [&, vm] {
    content = config.from.empty()
                  ? vm->config().store->Get(name)
                  : vm->remote_store().Open({config.from, name, config.digest}, deadline, &notes);
    return content.status();
  };
  MOULT_CO_RETURN_IF_ERROR(co_await op->strand()->Work(std::move(work)));
  for (std::string& note : notes) op->result().json["notes"].push_back(std::move(note));
  const std::string& theirs = (*content)->tenant();
  const std::string& ours = vm->config().tenant;
  if (theirs != ours && !vm->config().cross_tenant) {
    co_return absl::PermissionDeniedError(
        absl::StrCat("template ", name, " belongs to tenant \"", theirs, "\", this VM to \"", ours,
                     "\": VMs and templates are shared within one tenant only"));
  }
  if ((*content)->spec == nullptr) {
    co_return absl::FailedPreconditionError(
        absl::StrCat("template ", name, " does not say how its function is run; import it with a function"));
  }
  op->EndPhase("verify_template");
  co_return std::move(content);
}

// How much of the window both sides have; 0: the guest has none there, or another.
uint64_t Usable(Vm* vm, const Window& window) {
  const auto& theirs = vm->hello().windows;
  const WindowConfig& ours = window.config();
  if (ours.number >= theirs.size()) return 0;
  if (ours.gpa != 0 && theirs[ours.number]->gpa != ours.gpa) return 0;
  return std::min(theirs[ours.number]->size, ours.length);
}

// Takes a slot in the first window that has room. `why` says why there is none.
std::optional<SlotHold> TakeSlot(Vm* vm, const Template& content, absl::Status* why) {
  *why = absl::FailedPreconditionError(
      "no window that both this VM and the guest's driver have; load the driver, or use copy mode");
  if (!absl::c_linear_search(vm->hello().features, "window")) return std::nullopt;
  if (content.remote != nullptr) {
    if (const absl::Status servers = vm->NeedServers(content.remote->lends()); !servers.ok()) {
      *why = servers;
      return std::nullopt;
    }
  }
  for (Window& window : vm->windows()) {
    const uint64_t usable = Usable(vm, window);
    if (usable == 0) continue;
    auto slot = window.Take({content.digest, content.name, content.pages_fd(), content.reader->pages_size(),
                             content.remote, content.direct},
                            usable);
    if (slot.ok()) return SlotHold(&window, *slot);
    *why = slot.status();
  }
  return std::nullopt;
}

// The same; when windows are full, asks the agent which functions have ended by themselves.
Task<absl::StatusOr<std::optional<SlotHold>>> Place(Vm* vm, Op* op, Connection* connection,
                                                    const Template* content, PageMode mode) {
  std::optional<SlotHold> hold;
  // Without pages there is nothing to show; the agent takes an empty stream everywhere.
  if (mode == PageMode::kCopy || content->reader->pages_size() == 0) co_return std::move(hold);
  absl::Status why;
  hold = TakeSlot(vm, *content, &why);
  if (!hold.has_value() && absl::IsResourceExhausted(why)) {
    rpc::ListT list;
    auto reply = co_await connection->Call<rpc::ListReplyT>(op->strand(), std::move(list), rpc::kMaxResponse);
    if (!reply.ok()) co_return reply.status();
    vm->Reconcile(*reply);
    (void)co_await ReleaseIdle(vm, op, connection);
    if (connection->broken()) co_return absl::UnavailableError("the agent closed the connection");
    hold = TakeSlot(vm, *content, &why);
  }
  op->EndPhase("map_window");
  if (!hold.has_value() && mode == PageMode::kInPlace) co_return why;
  if (!hold.has_value())
    op->result().json["notes"].push_back(absl::StrCat("copied, because: ", why.message()));
  co_return std::move(hold);
}

// Before it is sent, all of it must be here.
Task<absl::Status> Fetch(Op* op, const Template* content) {
  if (content->remote == nullptr) co_return absl::OkStatus();
  RemotePages* const pages = content->remote.get();
  std::function<absl::Status()> work = [pages, deadline = op->strand()->deadline()] { return pages->FetchAll(deadline); };
  MOULT_CO_RETURN_IF_ERROR(co_await op->strand()->Work(std::move(work)));
  op->EndPhase("fetch_pages");
  co_return absl::OkStatus();
}

// Where the pages came from up to now, of which there is a part in place.
class Sources {
 public:
  Sources(Vm* vm, Op* op, const Template& content, const SlotHold* hold)
      : pager_(vm->remote_pager()), op_(op), content_(content) {
    if (hold != nullptr && hold->slot().remote) at_ = hold->window().config().hva + hold->slot().offset;
    before_ = Now();
    if (at_ == nullptr) return;
    vm_ = vm;
    vm->Attaching(at_, op);
  }
  Sources(const Sources&) = delete;
  Sources& operator=(const Sources&) = delete;
  ~Sources() {
    if (vm_ != nullptr) vm_->NotAttaching(at_, op_);
    if (content_.remote == nullptr && at_ == nullptr) return;
    const SlotBytes since = Since();
    op_->result().json["bytes_by_source"] = {{"cache", since.cache}, {"pool", since.pool}};
  }

 private:
  SlotBytes Now() const {
    if (at_ != nullptr) return pager_->bytes(at_);
    if (content_.remote == nullptr) return {};
    // What is sent was fetched, or was there.
    const uint64_t fetched = content_.remote->fetched_bytes();
    return {.cache = 0, .pool = fetched};
  }
  SlotBytes Since() const {
    SlotBytes since = Now();
    since.cache -= before_.cache;
    since.pool -= before_.pool;
    const uint64_t size = content_.reader->pages_size();
    if (at_ == nullptr) since.cache = size - std::min(since.pool, size);
    return since;
  }

  RemotePager* const pager_;
  Op* const op_;
  const Template& content_;
  const std::byte* at_ = nullptr;
  Vm* vm_ = nullptr;
  SlotBytes before_;
};

absl::Status ReadHere(const Template& content, uint64_t at, absl::Span<std::byte> to) {
  if (content.direct != nullptr) return content.direct->Read(at, to);
  if (pread(content.pages_fd(), to.data(), to.size(), static_cast<off_t>(at)) ==
      static_cast<ssize_t>(to.size()))
    return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("template ", content.name, ": pages end early"));
}

Task<absl::Status> Stream(Op* op, Connection* connection, const Template* content) {
  std::vector<std::byte> buffer(std::min(content->reader->pages_size(), kStreamStep));
  for (uint64_t at = 0; at < content->reader->pages_size(); at += kStreamStep) {
    const auto piece =
        absl::MakeSpan(buffer).first(std::min(kStreamStep, content->reader->pages_size() - at));
    absl::Status read = ReadHere(*content, at, piece);
    if (!read.ok()) {
      connection->Break();
      co_return read;
    }
    absl::Status sent = co_await connection->SendData(op->strand(), piece);
    if (!sent.ok()) co_return sent;
  }
  op->EndPhase("send_pages");
  co_return absl::OkStatus();
}

// `in_short`: to an agent that keeps the template.
rpc::AttachT Request(const Template& content, const SlotHold* hold, bool in_short) {
  rpc::AttachT attach;
  attach.name = content.name;
  attach.spec = std::make_unique<rpc::FunctionSpecT>(*content.spec);
  if (!in_short) {
    const std::string& image = content.reader->image_file();
    attach.image.assign(image.begin(), image.end());
    const std::string& manifest = content.reader->manifest_file();
    attach.manifest.assign(manifest.begin(), manifest.end());
  }
  attach.pages_size = content.reader->pages_size();
  attach.source = hold != nullptr ? rpc::PageSource::Window : rpc::PageSource::Stream;
  if (hold != nullptr) {
    attach.window = hold->window().config().number;
    attach.window_offset = hold->slot().offset;
    const std::string digest = absl::HexStringToBytes(content.digest);
    attach.digest.assign(digest.begin(), digest.end());
  }
  return attach;
}

Task<absl::Status> AttachOn(Vm* vm, Op* op, Connection* connection, const Template* content,
                            std::optional<SlotHold>* hold) {
  const bool in_place = hold->has_value();
  const Sources sources(vm, op, *content, in_place ? &**hold : nullptr);
  // Meanwhile others that have it may have lost pages.
  if (in_place && (*hold)->slot().remote &&
      vm->remote_pager()->spoiled((*hold)->window().config().hva + (*hold)->slot().offset)) {
    co_return absl::DataLossError(absl::StrCat("template ", content->name, ": its pool did not give a page to another function; attach again"));
  }
  if (!in_place) MOULT_CO_RETURN_IF_ERROR(co_await Fetch(op, content));
  op->result().pages = in_place ? PageMode::kInPlace : PageMode::kCopy;
  op->result().json["pages"] = in_place ? "in_place" : "copy";
  op->result().json["template"] = content->name;
  op->result().bytes = content->reader->pages_size();
  absl::StatusOr<std::unique_ptr<rpc::ResponseT>> response = absl::UnknownError("not asked");
  // One attach at a time can be in short: the others find the agent's worker busy.
  for (bool in_short = in_place && (*hold)->TakeKept();;) {
    rpc::RequestT request =
        rpc::MakeRequest(Request(*content, in_place ? &**hold : nullptr, in_short), op->strand()->RemainingMs());
    if (in_place) (*hold)->Asked();
    absl::Status sent = co_await connection->Send(op->strand(), std::move(request));
    if (sent.ok() && !in_place) sent = co_await Stream(op, connection, content);
    if (!sent.ok()) co_return sent;
    response = co_await connection->Receive(op->strand(), rpc::RequestBody::Attach, kMaxSmallResponse);
    if (response.ok()) break;
    if (in_place && !connection->broken()) (*hold)->Refused();
    // The agent keeps it no more.
    const bool whole = std::exchange(in_short, false) && absl::IsNotFound(response.status());
    if (!whole || connection->broken()) co_return response.status();
  }
  auto reply = connection->Expect<rpc::FunctionReplyT>(std::move(**response), rpc::RequestBody::Attach);
  if (!reply.ok()) co_return reply.status();
  if (in_place) {
    (*hold)->SetKept(reply->kept);
    (*hold)->Used(reply->function->id);
  }
  op->AddAgentPhases(reply->phases);
  op->EndPhase("await_function");
  op->result().function = reply->function->id;
  op->result().json["function"] = ToJson(*reply->function);
  for (std::string& note : reply->notes) op->result().json["notes"].push_back(std::move(note));
  co_return absl::OkStatus();
}

// Does a slot for it fit into a window once `function` is gone?
bool FitsWithout(Vm* vm, const Template& content, uint64_t function) {
  for (const Window& window : vm->windows()) {
    if (window.FitsWithout(function, content.reader->pages_size(), Usable(vm, window))) return true;
  }
  return false;
}

// The old function's memory first, then the new one. `later`: only then is there a place in a window.
Task<absl::Status> AttachAfter(Vm* vm, Op* op, Lease old, uint64_t function, TemplatePtr content, PageMode pages,
                               std::optional<SlotHold> hold, bool later) {
  std::optional<Lease> lease(std::move(old));
  MOULT_CO_RETURN_IF_ERROR(co_await Reclaim(vm, op, &**lease, function));
  op->result().json["settled"] = true;
  if ((*lease)->broken()) {
    lease.reset();
    MOULT_CO_ASSIGN_OR_RETURN(Lease second, co_await vm->Acquire(op));
    lease.emplace(std::move(second));
  }
  if (later) {
    auto again = co_await Place(vm, op, &**lease, content.get(), pages);
    if (!again.ok()) co_return again.status();
    hold = std::move(*again);
  }
  co_return co_await AttachOn(vm, op, &**lease, content.get(), &hold);
}

// The new function first, over another connection; the old one's memory is given back when that is done.
Task<absl::Status> AttachBeside(Vm* vm, Op* op, Lease old, uint64_t function, TemplatePtr content,
                                std::optional<SlotHold> hold) {
  auto lease = co_await vm->Acquire(op);
  absl::Status attached = lease.status();
  if (lease.ok()) attached = co_await AttachOn(vm, op, &**lease, content.get(), &hold);
  if (absl::IsResourceExhausted(attached) && !(*lease)->broken()) {
    MOULT_CO_RETURN_IF_ERROR(co_await Reclaim(vm, op, &*old, function));
    op->result().json["settled"] = true;
    co_return co_await AttachOn(vm, op, &**lease, content.get(), &hold);
  }
  StartReclaim(vm, std::move(old), function);
  co_return attached;
}

}  // namespace

Task<absl::Status> Attach(Vm* vm, Op* op, AttachConfig config) {
  MOULT_CO_ASSIGN_OR_RETURN(const TemplatePtr content, co_await Prepare(vm, op, config));
  MOULT_CO_ASSIGN_OR_RETURN(Lease lease, co_await vm->Acquire(op));
  MOULT_CO_ASSIGN_OR_RETURN(auto hold, co_await Place(vm, op, &*lease, content.get(), config.pages));
  co_return co_await AttachOn(vm, op, &*lease, content.get(), &hold);
}

Task<absl::Status> Repurpose(Vm* vm, Op* op, uint64_t function, AttachConfig config) {
  op->result().function = function;
  op->result().json["detached"] = false;
  op->result().json["settled"] = false;
  MOULT_CO_ASSIGN_OR_RETURN(const TemplatePtr content, co_await Prepare(vm, op, config));
  MOULT_CO_ASSIGN_OR_RETURN(Lease lease, co_await vm->Acquire(op));
  // Its place is found while the old function runs on. Where there is room only after it, that is known now,
  // and the place taken then.
  const PageMode wanted = config.pages == PageMode::kCopy ? PageMode::kCopy : PageMode::kInPlace;
  auto placed = co_await Place(vm, op, &*lease, content.get(), wanted);
  if (lease->broken()) co_return placed.status();
  const bool later = absl::IsResourceExhausted(placed.status()) && FitsWithout(vm, *content, function);
  if (!placed.ok() && !later && config.pages == PageMode::kInPlace) co_return placed.status();
  if (!placed.ok() && !later) {
    op->result().json["notes"].push_back(absl::StrCat("copied, because: ", placed.status().message()));
  }
  std::optional<SlotHold> hold;
  if (placed.ok()) hold = *std::move(placed);

  absl::Status ended = co_await EndFunction(vm, op, &*lease, function);
  if (!ended.ok()) co_return Annotate(ended, absl::StrCat("detach function ", function));
  // A copy needs room in guest RAM. Pages in place do not: the old ones are given back while the new function runs.
  const bool first = config.settled || !hold.has_value() || vm->single_connection() || lease->broken();
  absl::Status attached;
  if (first) {
    attached = co_await AttachAfter(vm, op, std::move(lease), function, content, config.pages, std::move(hold), later);
  } else {
    attached = co_await AttachBeside(vm, op, std::move(lease), function, content, std::move(hold));
  }
  if (!attached.ok()) {
    co_return Annotate(attached, absl::StrCat("function ", function, " is detached; attach ", config.name));
  }
  co_return absl::OkStatus();
}

}  // namespace moult::host::ops
