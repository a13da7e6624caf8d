// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "medians.h"
#include "moult/base/status.h"
#include "moult/protocol/limits.h"
#include "pool/rdma/rdma_pool.h"
#include "probe.h"
#include "raw.h"

namespace moult::probe {
namespace {

using Clock = host::RemoteTemplate::Clock;

constexpr size_t kRounds = 5;
constexpr size_t kCall = 4 << 20;  // what a pull asks for at once

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
    MOULT_ASSIGN_OR_RETURN(const double bare_pull, Seconds([&] { return raw.Read(0, size, Raw::kRead); }));
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
                               {"pages_read", kRounds * 2 * (reads + pages)},
                               {"bare_waits_by", raw.sleeps() ? "sleeping" : "polling"}};
  std::printf("%s\n", line.dump().c_str());
  return absl::OkStatus();
}

}  // namespace moult::probe
