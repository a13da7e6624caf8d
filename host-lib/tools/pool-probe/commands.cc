// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "moult/protocol/digest.h"
#include "moult/protocol/limits.h"
#include "moult/protocol/parse.h"
#include "pool/rdma/lent_pages.h"
#include "pool/rdma/rdma_pool.h"
#include "probe.h"
#include "remote/page_digests.h"

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

constexpr auto kOpenTime = std::chrono::minutes(1);  // a memory node reads and digests what it has not opened yet

volatile std::sig_atomic_t interrupted = 0;

// Calls for so long or until SIGINT, prints each change of what comes of it, and returns a summary.
template <typename Call>
nlohmann::json WatchCalls(std::chrono::seconds time, Call call) {
  const auto start = Clock::now();
  uint64_t calls = 0;
  double slowest = 0;
  absl::StatusCode last = absl::StatusCode::kUnknown;
  std::signal(SIGINT, [](int) { interrupted = 1; });
  while (interrupted == 0 && Clock::now() - start < time) {
    const auto began = Clock::now();
    const absl::Status status = call();
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
  return {{"calls", calls}, {"slowest_ms", slowest}, {"last", absl::StatusCodeToString(last)}};
}

// Pages in borrowed memory, of a content that is each one's own and tells which it is.
class Lent {
 public:
  static absl::StatusOr<Lent> Borrow(const Target& target, unsigned mib) {
    Lent lent;
    lent.written_.resize(size_t{mib} << 20);
    lent.slots_.resize(lent.written_.size() / image::kPageSize);
    MOULT_ASSIGN_OR_RETURN(const auto uri, host::ParsePoolUri(target.uri));
    MOULT_ASSIGN_OR_RETURN(lent.pool_, host::OpenLentPages(uri, target.key, lent.written_.size(), {.timeout = target.timeout}));
    return lent;
  }
  absl::Status Write(uint32_t seed) {
    std::mt19937_64 random(seed);
    for (size_t at = 0; at < written_.size(); at += sizeof(uint64_t)) {
      const uint64_t word = random();
      std::memcpy(&written_[at], &word, sizeof word);
    }
    for (size_t i = 0; i < slots_.size(); ++i) {
      const std::string title = absl::StrCat("moult-pool-probe page ", i, " of ", seed);
      std::memcpy(&written_[i * image::kPageSize], title.data(), title.size());
    }
    for (size_t i = 0; i < slots_.size(); i += kCallPages) {
      const size_t count = std::min(kCallPages, slots_.size() - i);
      MOULT_RETURN_IF_ERROR(pool_->Write(absl::MakeConstSpan(written_).subspan(i * image::kPageSize, count * image::kPageSize),
                                         absl::MakeSpan(slots_).subspan(i, count)));
    }
    return absl::OkStatus();
  }
  // What the pool says, and kInternal where it is content with other bytes than were written.
  absl::Status Read() {
    std::vector<std::byte> read(kCallPages * image::kPageSize);
    for (size_t i = 0; i < slots_.size(); i += kCallPages) {
      const size_t count = std::min(kCallPages, slots_.size() - i);
      const auto part = absl::MakeSpan(read).first(count * image::kPageSize);
      MOULT_RETURN_IF_ERROR(pool_->Read(absl::MakeConstSpan(slots_).subspan(i, count), part));
      if (std::memcmp(part.data(), &written_[i * image::kPageSize], part.size()) != 0) {
        return absl::InternalError("other bytes were read than were written");
      }
    }
    return absl::OkStatus();
  }
  void Free() { pool_->Free(slots_); }
  uint64_t used_bytes() const { return pool_->used_bytes(); }

 private:
  static constexpr size_t kCallPages = 256;
  Lent() = default;
  std::shared_ptr<host::PagePool> pool_;
  std::vector<std::byte> written_;
  std::vector<host::PoolSlot> slots_;
};

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
  Print({{"used_bytes", use.used_bytes},
         {"limit_bytes", use.limit_bytes},
         {"templates", use.templates},
         {"lent_bytes", use.lent_bytes},
         {"lend_limit_bytes", use.lend_limit_bytes}});
  return absl::OkStatus();
}

absl::Status Push(const Target& target, const std::string& store_path, const std::string& name) {
  MOULT_ASSIGN_OR_RETURN(const auto pool, Open(target));
  MOULT_ASSIGN_OR_RETURN(const auto store, host::Store::Open(store_path, /*create=*/false));
  MOULT_ASSIGN_OR_RETURN(const auto content, store->Read(name));
  MOULT_RETURN_IF_ERROR(pool->Push(*content, target.deadline(), /*progress=*/nullptr));
  Print({{"pushed", name}, {"digest", content->digest}});
  return absl::OkStatus();
}

absl::Status Remove(const Target& target, const std::string& name) {
  MOULT_ASSIGN_OR_RETURN(const auto pool, Open(target));
  MOULT_RETURN_IF_ERROR(pool->Remove(name, target.deadline()));
  Print({{"removed", name}});
  return absl::OkStatus();
}

namespace {

// What a fault holds a page against.
absl::Status VerifyDigests(const Target& target, host::RemoteTemplate& remote, const std::string& name, const image::PageLeaves& leaves) {
  host::PageDigests digests(leaves, remote.pages_size() / image::kPageSize);
  std::vector<std::byte> all(remote.pages_size() / image::kPageSize * host::PageDigests::kSize);
  const host::PoolPiece piece{0, absl::MakeSpan(all)};
  MOULT_RETURN_IF_ERROR(remote.ReadWithDigests({}, {&piece, 1}, target.deadline()));
  for (size_t at = 0; at < all.size(); at += host::PageDigests::kOfChunk) {
    const uint64_t chunk = at / host::PageDigests::kOfChunk;
    if (digests.Take(chunk, piece.to.subspan(at, host::PageDigests::kOfChunk))) continue;
    return absl::DataLossError(absl::StrCat("template ", name, ": pages: the digests of the pages of chunk ", chunk, " do not match its digest"));
  }
  return absl::OkStatus();
}

}  // namespace

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
  const image::PageLeaves leaves = {manifest->format_version, manifest->pages_leaves};
  image::Sha256 whole;
  for (uint64_t at = 0; at < size; at += kStep) {
    const auto part = absl::MakeSpan(buffer).first(std::min<uint64_t>(kStep, size - at));
    const host::PoolPiece piece{at, part};
    MOULT_RETURN_IF_ERROR(remote->Read({&piece, 1}, target.deadline()));
    whole.Update(part.data(), part.size());
    for (size_t in = 0; in < part.size(); in += image::kPagesChunk) {
      const auto chunk = part.subspan(in, image::kPagesChunk);
      const size_t index = (at + in) / image::kPagesChunk;
      if (!leaves.Match(chunk, index)) {
        return absl::DataLossError(absl::StrCat("template ", name, ": pages: chunk ", index, " does not match its digest"));
      }
    }
  }
  if (remote->has_page_digests() && leaves.by_page()) MOULT_RETURN_IF_ERROR(VerifyDigests(target, *remote, name, leaves));
  Print({{"verified", name},
         {"digest", image::DigestHex(image::Sha256Of(remote->manifest_file()))},
         {"pages_bytes", size},
         {"pages_sha256", image::DigestHex(whole.Finish())}});
  return absl::OkStatus();
}

absl::Status Watch(const Target& target, const std::string& name, std::chrono::seconds time) {
  MOULT_ASSIGN_OR_RETURN(const auto pool, Open(target));
  MOULT_ASSIGN_OR_RETURN(const auto remote, pool->Open(name, Clock::now() + std::max<Clock::duration>(target.timeout, kOpenTime)));
  const uint64_t pages = remote->pages_size() / image::kPageSize;
  if (pages == 0) return absl::FailedPreconditionError(absl::StrCat("template ", name, " has no pages to read"));
  std::vector<std::byte> page(image::kPageSize);
  std::minstd_rand random(1);
  Print(WatchCalls(time, [&] {
    const host::PoolPiece piece{random() % pages * image::kPageSize, absl::MakeSpan(page)};
    return remote->Read({&piece, 1}, target.deadline());
  }));
  return absl::OkStatus();
}

absl::Status LentPages(const Target& target, unsigned mib, unsigned rounds) {
  MOULT_ASSIGN_OR_RETURN(Lent lent, Lent::Borrow(target, mib));
  uint64_t most = 0;
  for (unsigned round = 1; round <= rounds; ++round) {
    MOULT_RETURN_IF_ERROR(lent.Write(round));
    MOULT_RETURN_IF_ERROR(lent.Read());
    most = std::max(most, lent.used_bytes());
    lent.Free();
  }
  Print({{"pages", rounds * (uint64_t{mib} << 20) / image::kPageSize}, {"used_bytes", most}, {"left_bytes", lent.used_bytes()}});
  return absl::OkStatus();
}

absl::Status WatchLentPages(const Target& target, unsigned mib, std::chrono::seconds time) {
  MOULT_ASSIGN_OR_RETURN(Lent lent, Lent::Borrow(target, mib));
  MOULT_RETURN_IF_ERROR(lent.Write(1));
  nlohmann::json summary = WatchCalls(time, [&] { return lent.Read(); });
  lent.Free();
  absl::Status again = lent.Write(2);
  if (again.ok()) again = lent.Read();
  summary["again"] = absl::StatusCodeToString(again.code());
  Print(summary);
  return absl::OkStatus();
}

}  // namespace moult::probe
