// SPDX-License-Identifier: Apache-2.0
#include "pool/transfer.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "moult/protocol/digest.h"
#include "moult/protocol/limits.h"
#include "moult/protocol/parse.h"
#include "pager/page_buffer.h"
#include "remote/remote_store.h"

namespace moult::host {
namespace {

using image::kPagesChunk;

constexpr uint64_t kChunksAtOnce = 16;

struct Opened {
  std::shared_ptr<RemoteTemplate> source;
  std::shared_ptr<Template> content;
};

absl::StatusOr<Opened> OpenIn(TemplatePool& pool, const std::string& name, Clock::time_point deadline) {
  Opened opened;
  MOULT_ASSIGN_OR_RETURN(opened.source, pool.Open(name, deadline));
  MOULT_ASSIGN_OR_RETURN(opened.content,
                         CheckRemote(name, absl::StrCat(name, " in pool ", pool.uri()), *opened.source));
  const uint64_t size = opened.content->reader->pages_size();
  if (opened.source->pages_size() == size) return opened;
  return absl::DataLossError(absl::StrCat("template ", name, " in pool ", pool.uri(), ": pages: ",
                                          opened.source->pages_size(), " bytes, the manifest says ", size));
}

// `each` gets all pages, checked, piece by piece.
absl::Status ReadAll(const Opened& opened, const std::string& where, Clock::time_point deadline,
                     const TransferProgress& progress,
                     const std::function<absl::Status(absl::Span<const std::byte>)>& each) {
  const image::TemplateReader& reader = *opened.content->reader;
  const uint64_t size = reader.pages_size();
  PageBuffer buffer(kChunksAtOnce * kPagesChunk / kPage);
  for (uint64_t at = 0; at < size;) {
    const absl::Span<std::byte> piece =
        buffer.first(std::min(kChunksAtOnce * kPagesChunk, size - at) / kPage);
    const PoolPiece wanted{at, piece};
    MOULT_RETURN_IF_ERROR(opened.source->Read({&wanted, 1}, deadline));
    for (uint64_t i = 0; i < piece.size(); i += kPagesChunk) {
      const uint64_t chunk = (at + i) / kPagesChunk;
      if (reader.leaves().Match(piece.subspan(i, kPagesChunk), chunk)) continue;
      return absl::DataLossError(absl::StrCat("template ", where, ": pages: chunk ", chunk, " (offset ",
                                              at + i, ") does not match its digest; push it again"));
    }
    MOULT_RETURN_IF_ERROR(each(piece));
    at += piece.size();
    if (progress) progress(at, size);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Pull(TemplatePool& pool, const std::string& name, Store* store, Clock::time_point deadline,
                  const TransferProgress& progress) {
  const std::string where = absl::StrCat(name, " in pool ", pool.uri());
  MOULT_ASSIGN_OR_RETURN(const Opened opened, OpenIn(pool, name, deadline));
  MOULT_ASSIGN_OR_RETURN(const auto target, store->Create(name, opened.content->reader->manifest().format_version));
  MOULT_RETURN_IF_ERROR(ReadAll(opened, where, deadline, progress, [&](absl::Span<const std::byte> piece) {
    // SAFETY: writev(2) does not write to what it is given.
    const struct iovec part = {const_cast<std::byte*>(piece.data()), piece.size()};
    return target->writer().AppendPages({&part, 1}).status();
  }));
  MOULT_ASSIGN_OR_RETURN(auto manifest, image::ParseManifest(opened.source->manifest_file()));
  return target->Publish(opened.content->reader->image(), std::move(*manifest));
}

absl::Status VerifyRemote(TemplatePool& pool, const std::string& name, Clock::time_point deadline,
                          const TransferProgress& progress) {
  MOULT_ASSIGN_OR_RETURN(const Opened opened, OpenIn(pool, name, deadline));
  return ReadAll(opened, absl::StrCat(name, " in pool ", pool.uri()), deadline, progress,
                 [](absl::Span<const std::byte>) { return absl::OkStatus(); });
}

}  // namespace moult::host
