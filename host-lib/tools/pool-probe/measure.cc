// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "moult/protocol/limits.h"
#include "pool/rdma/connection.h"
#include "pool/rdma/rdma_pool.h"
#include "probe.h"

namespace moult::probe {
namespace {

using Clock = host::RemoteTemplate::Clock;
namespace rdma = host::rdma;

constexpr size_t kRounds = 5;
constexpr size_t kCall = 4 << 20;         // what a pull asks for at once
constexpr size_t kRawRead = 64 << 10;     // each of the bare reads, of which
constexpr uint32_t kRawUnderWay = 16;     // so many are under way

// The bare verbs: nothing but post and poll.
class Raw {
 public:
  static absl::StatusOr<Raw> Open(const Target& target, const std::string& name) {
    Raw raw;
    MOULT_ASSIGN_OR_RETURN(const auto uri, host::ParsePoolUri(target.uri));
    MOULT_ASSIGN_OR_RETURN(raw.connection_, rdma::Connection::Open(uri.nodes[0], target.key, target.deadline()));
    MOULT_ASSIGN_OR_RETURN(const rdma::Opened opened, raw.connection_->Ask<rdma::Opened>(rdma::Open{name}, target.deadline()));
    raw.remote_ = opened.region;
    MOULT_ASSIGN_OR_RETURN(raw.memory_, rdma::Memory::Map(kRawUnderWay * kRawRead, "bare reads"));
    MOULT_ASSIGN_OR_RETURN(raw.region_, rdma::RegisterLocal(raw.connection_->queue().queue_pair()->pd, raw.memory_.bytes()));
    return raw;
  }

  absl::Status Read(uint64_t offset, uint64_t size, size_t step) {
    uint64_t posted = 0, done = 0;
    uint32_t under_way = 0;
    while (done < size) {
      for (; posted < size && under_way < kRawUnderWay; ++under_way) {
        const size_t part = std::min<uint64_t>(step, size - posted);
        const auto slot = static_cast<uint32_t>(posted / step % kRawUnderWay);
        MOULT_RETURN_IF_ERROR(connection_->queue().Post(IBV_WR_RDMA_READ, slot, memory_.bytes().subspan(slot * kRawRead, part),
                                                        region_->lkey, remote_.address + offset + posted, remote_.key));
        posted += part;
      }
      ibv_wc completion{};
      const int got = ibv_poll_cq(connection_->queue().queue_pair()->send_cq, 1, &completion);
      if (got == 0) continue;
      if (got < 0 || completion.status != IBV_WC_SUCCESS) return absl::UnavailableError("a bare read failed");
      done += completion.byte_len != 0 ? completion.byte_len : step;
      --under_way;
    }
    return absl::OkStatus();
  }

 private:
  Raw() = default;
  std::unique_ptr<rdma::Connection> connection_;
  rdma::Region remote_;
  rdma::Memory memory_;
  rdma::MemoryRegion region_;
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

template <typename Work>
absl::StatusOr<double> Seconds(Work work) {
  const auto start = Clock::now();
  MOULT_RETURN_IF_ERROR(work());
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

absl::Status Measure(const Target& target, const std::string& name, unsigned reads) {
  MOULT_ASSIGN_OR_RETURN(const auto uri, host::ParsePoolUri(target.uri));
  MOULT_ASSIGN_OR_RETURN(const auto pool, host::OpenRdmaPool(uri, target.key, {.connections = target.connections}));
  MOULT_ASSIGN_OR_RETURN(const auto remote, pool->Open(name, target.deadline()));
  const uint64_t size = remote->pages_size();
  const uint64_t pages = size / image::kPageSize;
  if (pages == 0) return absl::FailedPreconditionError(absl::StrCat("template ", name, " has no pages to read"));
  MOULT_ASSIGN_OR_RETURN(Raw raw, Raw::Open(target, name));
  std::vector<std::byte> buffer(std::min<uint64_t>(kCall, size));
  const auto offset = [&](unsigned i) { return i * uint64_t{7919} % pages * image::kPageSize; };  // here and there

  std::vector<double> page_ours, page_raw, page_ratio, pull_ours, pull_raw, pull_ratio;
  for (size_t round = 0; round < kRounds; ++round) {
    MOULT_ASSIGN_OR_RETURN(const double ours, Seconds([&] {
      for (unsigned i = 0; i < reads; ++i) {
        const host::PoolPiece piece{offset(i), absl::MakeSpan(buffer).first(image::kPageSize)};
        MOULT_RETURN_IF_ERROR(remote->Read({&piece, 1}, target.deadline()));
      }
      return absl::OkStatus();
    }));
    MOULT_ASSIGN_OR_RETURN(const double bare, Seconds([&] {
      for (unsigned i = 0; i < reads; ++i) MOULT_RETURN_IF_ERROR(raw.Read(offset(i), image::kPageSize, image::kPageSize));
      return absl::OkStatus();
    }));
    MOULT_ASSIGN_OR_RETURN(const double pull, Seconds([&] {
      for (uint64_t at = 0; at < size; at += kCall) {
        const host::PoolPiece piece{at, absl::MakeSpan(buffer).first(std::min<uint64_t>(kCall, size - at))};
        MOULT_RETURN_IF_ERROR(remote->Read({&piece, 1}, target.deadline()));
      }
      return absl::OkStatus();
    }));
    MOULT_ASSIGN_OR_RETURN(const double bare_pull, Seconds([&] { return raw.Read(0, size, kRawRead); }));
    page_ours.push_back(ours / reads * 1e6);
    page_raw.push_back(bare / reads * 1e6);
    page_ratio.push_back(ours / bare);
    pull_ours.push_back(static_cast<double>(size) / pull / 1e9);
    pull_raw.push_back(static_cast<double>(size) / bare_pull / 1e9);
    pull_ratio.push_back(bare_pull / pull);
  }
  const nlohmann::json line = {{"page_us", Median(page_ours)},     {"raw_page_us", Median(page_raw)},
                               {"page_ratio", Median(page_ratio)}, {"pull_gb_s", Median(pull_ours)},
                               {"raw_pull_gb_s", Median(pull_raw)}, {"pull_ratio", Median(pull_ratio)},
                               {"pages_read", kRounds * 2 * (reads + pages)}};
  std::printf("%s\n", line.dump().c_str());
  return absl::OkStatus();
}

}  // namespace moult::probe
