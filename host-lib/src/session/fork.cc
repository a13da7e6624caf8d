// SPDX-License-Identifier: Apache-2.0
//
// A running function's template, into a pool, while the function runs: it stands still for the capture alone.
#include <cstdlib>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "pool/uri.h"
#include "session/ops.h"

namespace moult::host::ops {
namespace {

// The template in the vm's store, which is on its way: removed when this goes, unless it is kept.
class OnItsWay {
 public:
  OnItsWay(std::shared_ptr<Store> store, std::string name) : store_(std::move(store)), name_(std::move(name)) {}
  OnItsWay(const OnItsWay&) = delete;
  OnItsWay& operator=(const OnItsWay&) = delete;
  ~OnItsWay() {
    if (there_) (void)store_->Remove(name_, digest_);
  }
  // As the capture says. Whoever removes it may give another its name: that is none of ours.
  void SetThere(std::string digest, bool keep) {
    digest_ = std::move(digest);
    there_ = !keep && !digest_.empty();
  }
  const std::string& digest() const { return digest_; }
  absl::Status Remove() {
    if (!std::exchange(there_, false)) return absl::OkStatus();
    const absl::Status removed = store_->Remove(name_, digest_);
    return absl::IsNotFound(removed) ? absl::OkStatus() : removed;
  }

 private:
  const std::shared_ptr<Store> store_;
  const std::string name_;
  std::string digest_;
  bool there_ = false;
};

absl::Status NotTheStore(const std::string& uri_text, const Store& store) {
  MOULT_ASSIGN_OR_RETURN(const PoolUri uri, ParsePoolUri(uri_text));
  if (uri.scheme != "file") return absl::OkStatus();
  const std::unique_ptr<char, void (*)(void*)> real(realpath(uri.path.c_str(), nullptr), free);
  if (real == nullptr || store.path() != real.get()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("pool ", uri_text, " is this VM's own store; use capture, or name another pool"));
}

// Whether the pool can be had, and has none of this name, before the function is stopped for it.
absl::StatusOr<std::shared_ptr<TemplatePool>> OpenFor(Vm* vm, const ForkConfig& config, Clock::time_point deadline) {
  MOULT_RETURN_IF_ERROR(NotTheStore(config.to, *vm->config().store));
  MOULT_ASSIGN_OR_RETURN(auto pool, vm->remote_store().Pool(config.to));
  const absl::Status there = pool->Open(config.capture.name, deadline).status();
  if (absl::IsNotFound(there)) return pool;
  if (!there.ok() && !absl::IsDataLoss(there)) return there;
  return absl::AlreadyExistsError(absl::StrCat("template ", config.capture.name, " is in pool ", config.to,
                                               " already; give another name, or remove it there"));
}

absl::Status Push(Store* store, TemplatePool* pool, const std::string& name, const std::string& digest, Clock::time_point deadline) {
  MOULT_ASSIGN_OR_RETURN(const auto content, store->Read(name));
  if (content->digest != digest) {
    return absl::AbortedError(absl::StrCat("template ", name, " has been removed from the VM's store, where another has its name by now; "
                                           "give another name"));
  }
  return pool->Push(*content, deadline, /*progress=*/nullptr);
}

}  // namespace

Task<absl::Status> Fork(Vm* vm, Op* op, ForkConfig config) {
  const std::string& name = config.capture.name;
  const std::shared_ptr<Store> store = vm->config().store;
  const Clock::time_point deadline = op->strand()->deadline();
  Json& told = op->result().json;
  told["to"] = config.to;
  absl::StatusOr<std::shared_ptr<TemplatePool>> pool = absl::UnknownError("not opened");
  std::function<absl::Status()> open = [&] {
    pool = OpenFor(vm, config, deadline);
    return pool.status();
  };
  MOULT_CO_RETURN_IF_ERROR(co_await op->strand()->Work(std::move(open)));
  op->EndPhase("open_pool");

  MOULT_CO_RETURN_IF_ERROR(co_await Capture(vm, op, config.capture));
  OnItsWay local(store, name);
  const Json captured = told.value("template", Json::object());
  local.SetThere(captured.value("digest", ""), config.keep);
  told["pushed"] = false;
  absl::Status removed;
  std::function<absl::Status()> push = [&] {
    const absl::Status pushed = Push(store.get(), pool->get(), name, local.digest(), deadline);
    if (!config.keep) removed = local.Remove();
    return pushed;
  };
  const absl::Status pushed = co_await op->strand()->Work(std::move(push));
  op->EndPhase("push");
  told["kept"] = config.keep;
  if (!removed.ok()) {
    told["kept"] = true;
    told["notes"].push_back(absl::StrCat("the store still has template ", name, ": ", removed.message()));
  }
  if (!pushed.ok()) {
    co_return Annotate(pushed, absl::StrCat("function ", config.capture.function, " runs on; its template ", name,
                                            told["kept"] == true ? " is in the VM's store" : " was not kept"));
  }
  told["pushed"] = true;
  co_return absl::OkStatus();
}

}  // namespace moult::host::ops
