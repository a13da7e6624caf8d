// SPDX-License-Identifier: Apache-2.0
#include "pager.h"

#include <fcntl.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <random>
#include <thread>

#include "memory/guest_memory.h"
#include "pager/pager.h"
#include "pager_peer.h"
#include "pool/uri.h"

namespace moult::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kOwner = 1;
constexpr uint64_t kFaultPages = 4096;
constexpr int kServing = 2;

double Microseconds(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

std::vector<uint64_t> Order(uint64_t pages, bool shuffled) {
  std::vector<uint64_t> order(pages);
  std::iota(order.begin(), order.end(), uint64_t{0});
  if (shuffled) std::shuffle(order.begin(), order.end(), std::mt19937(1));
  return order;
}

// Ours, with threads that serve it.
class Subject {
 public:
  static absl::StatusOr<std::unique_ptr<Subject>> Create(const Ram& ram, const std::string& folder,
                                                         uint32_t neighbours) {
    auto subject = std::make_unique<Subject>();
    host::RegionConfig region = {{host::GuestPhys(0), ram.pages() * kPageBytes}, ram.data(), ram.fd(), 0};
    MOULT_ASSIGN_OR_RETURN(host::GuestMemory memory, host::GuestMemory::Create({&region, 1}));
    subject->memory_ = std::make_unique<host::GuestMemory>(std::move(memory));
    host::PagerConfig config;
    MOULT_ASSIGN_OR_RETURN(config.threads, host::ServingThreads::Create());
    // As a vm has it: with threads that serve reading and writing for others, but for a tmpfs.
    MOULT_ASSIGN_OR_RETURN(config.pool, host::OpenPagePool(absl::StrCat("file:", folder), {"", "", config.threads}, ram.pages() * kPageBytes));
    config.neighbours = neighbours;
    const std::shared_ptr<host::ServingThreads> serving = config.threads;
    MOULT_ASSIGN_OR_RETURN(subject->pager_, host::Pager::Create(subject->memory_.get(), std::move(config)));
    for (int i = 0; i < kServing; ++i)
      subject->threads_.emplace_back([pager = subject->pager_.get()] { pager->Serve(); });
    while (serving->count() < kServing) std::this_thread::yield();
    return subject;
  }
  ~Subject() {
    if (pager_ != nullptr) pager_->Stop();
    for (std::thread& thread : threads_) thread.join();
  }
  // In the order of virtual addresses that `order` is.
  absl::Status Offload(absl::Span<const uint64_t> order) {
    std::vector<host::OffloadRun> runs;
    for (size_t i = 0; i < order.size(); ++i) {
      if (!runs.empty() && order[i] == order[i - 1] + 1) {
        runs.back().range.length += kPageBytes;
      } else {
        runs.push_back({{host::GuestPhys(order[i] * kPageBytes), kPageBytes}, i * kPageBytes, 1});
      }
    }
    MOULT_ASSIGN_OR_RETURN(const host::OffloadResult result, pager_->Offload(kOwner, runs));
    if (result.moved_bytes == order.size() * kPageBytes) return absl::OkStatus();
    return absl::InternalError("not all pages were offloaded");
  }
  host::Pager& pager() { return *pager_; }

 private:
  std::unique_ptr<host::GuestMemory> memory_;
  std::unique_ptr<host::Pager> pager_;
  std::vector<std::thread> threads_;
};

// µs of each touch, as who touches sees it.
std::vector<double> Touch(const Ram& ram, absl::Span<const uint64_t> order) {
  std::vector<double> latencies;
  latencies.reserve(order.size());
  for (const uint64_t page : order) {
    const Clock::time_point start = Clock::now();
    (void)__atomic_load_n(reinterpret_cast<const uint64_t*>(ram.page(page)), __ATOMIC_RELAXED);
    latencies.push_back(Microseconds(start));
  }
  return latencies;
}

// `walk`: up through the virtual addresses, and the time of the whole a page.
absl::Status MeasureFaults(const PagerArguments& arguments, uint32_t neighbours, bool walk, PagerRow* row) {
  MOULT_ASSIGN_OR_RETURN(const Ram ram, Ram::Create(kFaultPages * kPageBytes));
  MOULT_ASSIGN_OR_RETURN(const Ram content, Ram::Create(kFaultPages * kPageBytes));
  content.Fill();
  const std::vector<uint64_t> order = Order(kFaultPages, !walk);
  const auto sample = [&] {
    const Clock::time_point start = Clock::now();
    const std::vector<double> latencies = Touch(ram, order);
    return walk ? Microseconds(start) / kFaultPages : Summarize(latencies).median;
  };
  for (int round = 0; round < arguments.rounds; ++round) {
    MOULT_RETURN_IF_ERROR(ram.Empty());
    MOULT_RETURN_IF_ERROR(WithBareFaults(ram, content.data(), [&] { row->theirs.push_back(sample()); }));
    ram.Fill();
    MOULT_ASSIGN_OR_RETURN(const auto subject, Subject::Create(ram, arguments.pool, neighbours));
    MOULT_RETURN_IF_ERROR(subject->Offload(Order(kFaultPages, /*shuffled=*/false)));
    row->ours.push_back(sample());
  }
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> OpenFile(const std::string& folder) {
  UniqueFd file(open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (!file.valid()) return ErrnoStatus(absl::StrCat("open a file in ", folder));
  return file;
}

// `out` and `mapped`: the same of ours, against one peer each.
absl::Status MeasureMoves(const PagerArguments& arguments, bool scattered, PagerRow* out, PagerRow* mapped, PagerRow* in) {
  const uint64_t bytes = static_cast<uint64_t>(arguments.mib) << 20;
  const double gigabytes = static_cast<double>(bytes) / 1e9;
  MOULT_ASSIGN_OR_RETURN(const Ram ram, Ram::Create(bytes));
  const std::vector<uint64_t> order = Order(ram.pages(), scattered);
  for (int round = 0; round < arguments.rounds; ++round) {
    ram.Fill();
    {
      MOULT_ASSIGN_OR_RETURN(const UniqueFd file, OpenFile(arguments.pool));
      MOULT_ASSIGN_OR_RETURN(const double copied_out, CopyOut(ram, order, file.get()));
      out->theirs.push_back(gigabytes / copied_out);
      MOULT_RETURN_IF_ERROR(ram.Empty());
      MOULT_ASSIGN_OR_RETURN(const double copied_in, CopyIn(ram, order, file.get()));
      in->theirs.push_back(gigabytes / copied_in);
    }
    {
      MOULT_ASSIGN_OR_RETURN(UniqueFd opened, OpenFile(arguments.pool));
      MOULT_ASSIGN_OR_RETURN(const Ram file, Ram::On(std::move(opened), bytes));
      MOULT_ASSIGN_OR_RETURN(const double copied, CopyToMapping(ram, order, file));
      mapped->theirs.push_back(gigabytes / copied);
    }
    MOULT_ASSIGN_OR_RETURN(const auto subject, Subject::Create(ram, arguments.pool, 7));
    Clock::time_point start = Clock::now();
    MOULT_RETURN_IF_ERROR(subject->Offload(order));
    out->ours.push_back(gigabytes / (Microseconds(start) / 1e6));
    mapped->ours.push_back(out->ours.back());
    start = Clock::now();
    MOULT_RETURN_IF_ERROR(subject->pager().Recall(kOwner, host::Prefetch::kAll));
    in->ours.push_back(gigabytes / (Microseconds(start) / 1e6));
  }
  return absl::OkStatus();
}

}  // namespace

Summary PagerRow::Ratios() const {
  std::vector<double> ratios;
  for (size_t i = 0; i < ours.size(); ++i) ratios.push_back(rate ? theirs[i] / ours[i] : ours[i] / theirs[i]);
  return Summarize(std::move(ratios));
}

absl::StatusOr<std::vector<PagerRow>> MeasurePager(const PagerArguments& arguments) {
  std::vector<PagerRow> rows = {
      {.name = "one fault", .peer = "UFFDIO_COPY from memory", .unit = "us", .goal = 1.5},
      {.name = "a walk, by page", .peer = "UFFDIO_COPY from memory", .unit = "us"},
      {.name = "offload", .peer = "memcpy + pwrite", .unit = "GB/s", .goal = 2, .rate = true},
      {.name = "offload", .peer = "memcpy to a mapping", .unit = "GB/s", .rate = true},
      {.name = "recall all", .peer = "pread + memcpy", .unit = "GB/s", .rate = true},
      {.name = "offload, scattered", .peer = "memcpy + pwrite", .unit = "GB/s", .rate = true},
      {.name = "offload, scattered", .peer = "memcpy to a mapping", .unit = "GB/s", .rate = true},
      {.name = "recall all, scattered", .peer = "pread + memcpy", .unit = "GB/s", .rate = true},
  };
  MOULT_RETURN_IF_ERROR(MeasureFaults(arguments, /*neighbours=*/0, /*walk=*/false, &rows[0]));
  MOULT_RETURN_IF_ERROR(MeasureFaults(arguments, /*neighbours=*/7, /*walk=*/true, &rows[1]));
  MOULT_RETURN_IF_ERROR(MeasureMoves(arguments, /*scattered=*/false, &rows[2], &rows[3], &rows[4]));
  MOULT_RETURN_IF_ERROR(MeasureMoves(arguments, /*scattered=*/true, &rows[5], &rows[6], &rows[7]));
  return rows;
}

}  // namespace moult::bench
