// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "moult/protocol/digest.h"
#include "moult/protocol/limits.h"
#include "moult/protocol/parse.h"
#include "pool/rdma/rdma_pool.h"
#include "probe.h"

namespace moult::probe {
namespace {

using Clock = host::RemoteTemplate::Clock;

constexpr size_t kStep = 4 << 20;

absl::StatusOr<std::shared_ptr<host::TemplatePool>> Open(const Target& target) {
  MOULT_ASSIGN_OR_RETURN(const auto uri, host::ParsePoolUri(target.uri));
  return host::OpenRdmaPool(uri, target.key, {.connections = target.connections});
}

void Print(const nlohmann::json& line) {
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
}

double Milliseconds(Clock::duration time) { return std::chrono::duration<double, std::milli>(time).count(); }

}  // namespace

absl::Status List(const Target& target) {
  MOULT_ASSIGN_OR_RETURN(const auto pool, Open(target));
  MOULT_ASSIGN_OR_RETURN(const auto entries, pool->List(target.deadline()));
  for (const host::PoolEntry& entry : entries) {
    Print({{"name", entry.name}, {"digest", entry.digest}, {"tenant", entry.tenant}, {"bytes", entry.bytes}});
  }
  return absl::OkStatus();
}

absl::Status Use(const Target& target) {
  MOULT_ASSIGN_OR_RETURN(const auto pool, Open(target));
  MOULT_ASSIGN_OR_RETURN(const host::PoolUse use, pool->Use(target.deadline()));
  Print({{"used_bytes", use.used_bytes}, {"limit_bytes", use.limit_bytes}, {"templates", use.templates}});
  return absl::OkStatus();
}

absl::Status Push(const Target& target, const std::string& store_path, const std::string& name) {
  MOULT_ASSIGN_OR_RETURN(const auto pool, Open(target));
  MOULT_ASSIGN_OR_RETURN(const auto store, host::Store::Open(store_path, /*create=*/false));
  MOULT_ASSIGN_OR_RETURN(const auto content, store->Read(name));
  MOULT_RETURN_IF_ERROR(pool->Push(*content, target.deadline()));
  Print({{"pushed", name}, {"digest", content->digest}});
  return absl::OkStatus();
}

absl::Status Remove(const Target& target, const std::string& name) {
  MOULT_ASSIGN_OR_RETURN(const auto pool, Open(target));
  MOULT_RETURN_IF_ERROR(pool->Remove(name, target.deadline()));
  Print({{"removed", name}});
  return absl::OkStatus();
}

absl::Status Verify(const Target& target, const std::string& name) {
  MOULT_ASSIGN_OR_RETURN(const auto pool, Open(target));
  MOULT_ASSIGN_OR_RETURN(const auto remote, pool->Open(name, target.deadline()));
  MOULT_ASSIGN_OR_RETURN(const auto manifest, image::ParseManifest(remote->manifest_file()));
  const auto image_digest = image::Sha256Of(remote->image_file());
  if (!std::equal(image_digest.begin(), image_digest.end(), manifest->image->sha256.begin(), manifest->image->sha256.end())) {
    return absl::DataLossError(absl::StrCat("template ", name, ": image: does not match its digest"));
  }
  const uint64_t size = remote->pages_size();
  std::vector<std::byte> buffer(std::min<uint64_t>(kStep, size));
  image::Sha256 whole;
  for (uint64_t at = 0; at < size; at += kStep) {
    const auto part = absl::MakeSpan(buffer).first(std::min<uint64_t>(kStep, size - at));
    const host::PoolPiece piece{at, part};
    MOULT_RETURN_IF_ERROR(remote->Read({&piece, 1}, target.deadline()));
    whole.Update(part.data(), part.size());
    for (size_t in = 0; in < part.size(); in += image::kPagesChunk) {
      const auto chunk = part.subspan(in, image::kPagesChunk);
      const auto leaf = image::LeafDigest(chunk);
      const size_t index = (at + in) / image::kPagesChunk;
      if (!std::equal(leaf.begin(), leaf.end(), manifest->pages_leaves.begin() + static_cast<ptrdiff_t>(index * leaf.size()))) {
        return absl::DataLossError(absl::StrCat("template ", name, ": pages: chunk ", index, " does not match its digest"));
      }
    }
  }
  Print({{"verified", name},
         {"digest", image::DigestHex(image::Sha256Of(remote->manifest_file()))},
         {"pages_bytes", size},
         {"pages_sha256", image::DigestHex(whole.Finish())}});
  return absl::OkStatus();
}

absl::Status Watch(const Target& target, const std::string& name, std::chrono::seconds time) {
  MOULT_ASSIGN_OR_RETURN(const auto pool, Open(target));
  MOULT_ASSIGN_OR_RETURN(const auto remote, pool->Open(name, target.deadline()));
  const uint64_t pages = remote->pages_size() / image::kPageSize;
  if (pages == 0) return absl::FailedPreconditionError(absl::StrCat("template ", name, " has no pages to read"));
  std::vector<std::byte> page(image::kPageSize);
  std::minstd_rand random(1);
  const auto start = Clock::now();
  uint64_t calls = 0;
  double slowest = 0;
  absl::StatusCode last = absl::StatusCode::kUnknown;
  while (Clock::now() - start < time) {
    const host::PoolPiece piece{random() % pages * image::kPageSize, absl::MakeSpan(page)};
    const auto began = Clock::now();
    const absl::Status status = remote->Read({&piece, 1}, target.deadline());
    const auto ended = Clock::now();
    slowest = std::max(slowest, Milliseconds(ended - began));
    ++calls;
    if (status.code() != last) {
      Print({{"at_ms", Milliseconds(ended - start)},
             {"took_ms", Milliseconds(ended - began)},
             {"code", absl::StatusCodeToString(status.code())},
             {"message", std::string(status.message())}});
    }
    last = status.code();
  }
  Print({{"calls", calls}, {"slowest_ms", slowest}, {"last", absl::StatusCodeToString(last)}});
  return absl::OkStatus();
}

}  // namespace moult::probe
