// SPDX-License-Identifier: Apache-2.0
#include "pool/bounded_template.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"

namespace moult::host {
namespace {

// Into memory of its own, which it may outlive who wants it with.
class ReadPieces final : public ServingThreads::Job {
 public:
  ReadPieces(std::shared_ptr<RemoteTemplate> source, absl::Span<const PoolPiece> pieces, Clock::time_point deadline)
      : source_(std::move(source)), deadline_(deadline) {
    size_t bytes = 0;
    for (const PoolPiece& piece : pieces) bytes += piece.to.size();
    memory_.resize(bytes);
    size_t at = 0;
    for (const PoolPiece& piece : pieces) {
      pieces_.push_back({piece.offset, absl::MakeSpan(memory_).subspan(at, piece.to.size())});
      at += piece.to.size();
    }
  }
  const std::byte* piece(size_t i) const { return pieces_[i].to.data(); }

 private:
  absl::Status Run() override { return source_->Read(pieces_, deadline_); }

  const std::shared_ptr<RemoteTemplate> source_;
  const Clock::time_point deadline_;
  std::vector<std::byte> memory_;
  std::vector<PoolPiece> pieces_;
};

}  // namespace

BoundedTemplate::BoundedTemplate(const std::string& where, std::shared_ptr<RemoteTemplate> source,
                                 std::shared_ptr<ServingThreads> threads)
    : who_(absl::StrCat("template ", where)), source_(std::move(source)), threads_(std::move(threads)) {}

absl::Status BoundedTemplate::Read(absl::Span<const PoolPiece> pieces, Clock::time_point deadline) {
  std::vector<PoolPiece> rest;
  for (const PoolPiece& piece : pieces) {
    if (!source_->ReadNow(piece)) rest.push_back(piece);
  }
  if (rest.empty()) return absl::OkStatus();
  const auto job = std::make_shared<ReadPieces>(source_, rest, deadline);
  const auto most = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
  MOULT_RETURN_IF_ERROR(threads_->Do(job, {who_, "read", most}));
  for (size_t i = 0; i < rest.size(); ++i) std::memcpy(rest[i].to.data(), job->piece(i), rest[i].to.size());
  return absl::OkStatus();
}

}  // namespace moult::host
