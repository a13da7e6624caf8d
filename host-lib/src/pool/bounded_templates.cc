// SPDX-License-Identifier: Apache-2.0
#include "pool/bounded_templates.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "moult/base/status.h"

namespace moult::host {
namespace {

// What it works with is its own, or shared: it may outlive who wants it.
template <typename T>
class PoolCall final : public ServingThreads::Job {
 public:
  PoolCall(std::function<absl::StatusOr<T>()> call, std::function<void()> undo) : call_(std::move(call)), undo_(std::move(undo)) {}
  T Take() { return *std::move(result_); }

 private:
  absl::Status Run() override {
    MOULT_ASSIGN_OR_RETURN(result_, call_());
    return absl::OkStatus();
  }
  void Unwanted() override {
    if (undo_) undo_();
  }

  const std::function<absl::StatusOr<T>()> call_;
  const std::function<void()> undo_;
  std::optional<T> result_;
};

struct PoolCallDone {};

absl::StatusOr<PoolCallDone> WithDone(absl::Status status) {
  if (!status.ok()) return status;
  return PoolCallDone();
}

}  // namespace

BoundedTemplates::BoundedTemplates(std::string uri, std::shared_ptr<ServingThreads> threads, std::chrono::milliseconds answers_within)
    : uri_(std::move(uri)), who_(absl::StrCat("pool ", uri_)), threads_(std::move(threads)), answers_within_(answers_within) {}

Clock::time_point BoundedTemplates::Soon(Clock::time_point deadline) const { return std::min(deadline, Clock::now() + answers_within_); }

template <typename T>
absl::StatusOr<T> BoundedTemplates::Do(const char* what, Clock::time_point deadline, std::function<absl::StatusOr<T>()> call,
                                       std::function<void()> undo) const {
  if (threads_->count() < ServingThreads::kForSlow) return call();
  const auto job = std::make_shared<PoolCall<T>>(std::move(call), std::move(undo));
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
  MOULT_RETURN_IF_ERROR(threads_->Do(job, {who_, what, std::max(left, std::chrono::milliseconds(0)), /*slow=*/true}));
  return job->Take();
}

absl::StatusOr<std::shared_ptr<TemplatePool>> BoundedTemplates::Open(const std::string& uri, Opener open,
                                                                     std::shared_ptr<ServingThreads> threads,
                                                                     std::chrono::milliseconds answers_within) {
  std::shared_ptr<BoundedTemplates> bounded(new BoundedTemplates(uri, std::move(threads), answers_within));
  MOULT_ASSIGN_OR_RETURN(bounded->pool_,
                         bounded->Do<std::shared_ptr<TemplatePool>>("first look", bounded->Soon(Clock::time_point::max()), std::move(open)));
  return bounded;
}

absl::StatusOr<std::vector<PoolEntry>> BoundedTemplates::List(Clock::time_point deadline) {
  return Do<std::vector<PoolEntry>>("list", Soon(deadline), [pool = pool_, deadline] { return pool->List(deadline); });
}

absl::StatusOr<std::shared_ptr<RemoteTemplate>> BoundedTemplates::Open(const std::string& name, Clock::time_point deadline) {
  auto opened = Do<std::shared_ptr<RemoteTemplate>>("look at a template", Soon(deadline),
                                                    [pool = pool_, name, deadline] { return pool->Open(name, deadline); });
  if (absl::IsUnavailable(opened.status())) return Annotate(opened.status(), absl::StrCat("open template ", name));
  return opened;
}

absl::Status BoundedTemplates::Push(const Template& content, Clock::time_point deadline, const TransferProgress& /*progress*/) {
  const auto copy = std::make_shared<const Template>(content);
  const absl::Status pushed =
      Do<PoolCallDone>(
          "push", deadline, [pool = pool_, copy, deadline] { return WithDone(pool->Push(*copy, deadline, nullptr)); },
          [pool = pool_, copy] {
            const auto entries = pool->List(Clock::time_point::max());
            const auto is_it = [&](const PoolEntry& one) { return one.name == copy->name && one.digest == copy->digest; };
            if (entries.ok() && absl::c_any_of(*entries, is_it)) (void)pool->Remove(copy->name, Clock::time_point::max());
          })
          .status();
  if (!absl::IsUnavailable(pushed)) return pushed;
  return Annotate(pushed, absl::StrCat("push ", content.name, " to ", uri_, ": nothing of it stays there once it answers"));
}

absl::Status BoundedTemplates::Remove(const std::string& name, Clock::time_point deadline) {
  const absl::Status removed =
      Do<PoolCallDone>("removal", Soon(deadline), [pool = pool_, name, deadline] { return WithDone(pool->Remove(name, deadline)); }).status();
  if (absl::IsUnavailable(removed)) return Annotate(removed, absl::StrCat("remove template ", name, ": it may go once the pool answers"));
  return removed;
}

absl::StatusOr<PoolUse> BoundedTemplates::Use(Clock::time_point deadline) {
  return Do<PoolUse>("look at its room", Soon(deadline), [pool = pool_, deadline] { return pool->Use(deadline); });
}

}  // namespace moult::host
