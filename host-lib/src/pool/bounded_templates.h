// SPDX-License-Identifier: Apache-2.0
//
// A pool of templates whose medium may stop to answer: whatever may block is done by threads that serve faults, in the stead
// of who wants it, and he waits until his deadline at most.
#ifndef MOULT_HOST_POOL_BOUNDED_TEMPLATES_H_
#define MOULT_HOST_POOL_BOUNDED_TEMPLATES_H_

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "pool/template_pool.h"
#include "serving/serving_threads.h"

namespace moult::host {

// kUnavailable: the pool does not answer. What is done here may take long where all is well, so it is slow to these threads:
// where fewer than three serve the caller waits himself, without a bound, as without this. A push that nobody waits for any more is undone when it ends well.
class BoundedTemplates final : public TemplatePool {
 public:
  using Opener = std::function<absl::StatusOr<std::shared_ptr<TemplatePool>>()>;

  // What is looked at has so long, if the deadline is not sooner; a push has all the time that it is given.
  static constexpr std::chrono::seconds kAnswersWithin{30};

  // `open` may block, and is bounded as all else.
  static absl::StatusOr<std::shared_ptr<TemplatePool>> Open(const std::string& uri, Opener open, std::shared_ptr<ServingThreads> threads,
                                                            std::chrono::milliseconds answers_within = kAnswersWithin);

  const std::string& uri() const override { return uri_; }
  absl::StatusOr<std::vector<PoolEntry>> List(Clock::time_point deadline) override;
  absl::StatusOr<std::shared_ptr<RemoteTemplate>> Open(const std::string& name, Clock::time_point deadline) override;
  // `progress` is not told: a push may go on when who wants to know has gone.
  absl::Status Push(const Template& content, Clock::time_point deadline, const TransferProgress& progress) override;
  absl::Status Remove(const std::string& name, Clock::time_point deadline) override;
  absl::StatusOr<PoolUse> Use(Clock::time_point deadline) override;

 private:
  BoundedTemplates(std::string uri, std::shared_ptr<ServingThreads> threads, std::chrono::milliseconds answers_within);
  template <typename T>
  absl::StatusOr<T> Do(const char* what, Clock::time_point deadline, std::function<absl::StatusOr<T>()> call,
                       std::function<void()> undo = nullptr) const;
  Clock::time_point Soon(Clock::time_point deadline) const;

  const std::string uri_;
  const std::string who_;
  const std::shared_ptr<ServingThreads> threads_;
  const std::chrono::milliseconds answers_within_;
  std::shared_ptr<TemplatePool> pool_;
};

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_BOUNDED_TEMPLATES_H_
