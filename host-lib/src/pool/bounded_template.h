// SPDX-License-Identifier: Apache-2.0
//
// A template whose medium may stop to answer: its pages are read by threads that serve faults, in the stead of who wants
// them, and he waits until his deadline at most.
#ifndef MOULT_HOST_POOL_BOUNDED_TEMPLATE_H_
#define MOULT_HOST_POOL_BOUNDED_TEMPLATE_H_

#include <memory>
#include <string>

#include "pool/template_pool.h"
#include "serving/serving_threads.h"

namespace moult::host {

// What is read too late is not kept: the medium's own cache has it for the next try.
class BoundedTemplate final : public RemoteTemplate {
 public:
  // `where` for messages: "file:/p/name".
  BoundedTemplate(const std::string& where, std::shared_ptr<RemoteTemplate> source, std::shared_ptr<ServingThreads> threads);

  const std::string& manifest_file() const override { return source_->manifest_file(); }
  const std::string& image_file() const override { return source_->image_file(); }
  uint64_t pages_size() const override { return source_->pages_size(); }
  absl::Status Read(absl::Span<const PoolPiece> pieces, Clock::time_point deadline) override;
  bool ReadNow(const PoolPiece& piece) override { return source_->ReadNow(piece); }
  bool lends() const override { return true; }

 private:
  const std::string who_;
  const std::shared_ptr<RemoteTemplate> source_;
  const std::shared_ptr<ServingThreads> threads_;
};

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_BOUNDED_TEMPLATE_H_
