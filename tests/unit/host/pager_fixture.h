// SPDX-License-Identifier: Apache-2.0
//
// Guest RAM of either kind, a pool in a temporary folder, a pager, and threads that serve it.
#ifndef MOULT_TESTS_UNIT_HOST_PAGER_FIXTURE_H_
#define MOULT_TESTS_UNIT_HOST_PAGER_FIXTURE_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "memory/guest_memory.h"
#include "moult/base/unique_fd.h"
#include "pager/pager.h"
#include "pool/file/page_file.h"

namespace moult::host::testing {

inline constexpr uint64_t kGuestGpa = 1ull << 32;
inline constexpr uint64_t kOwner = 7;
inline constexpr uint64_t kVa = 0x7f0000000000;

enum class Kind { kMemfd, kAnonymous };

class PagerTest : public ::testing::TestWithParam<Kind> {
 protected:
  static constexpr uint64_t kPoolBytes = 256 << 20;

  void Start(uint64_t pages, int threads = 2, uint64_t pool_bytes = kPoolBytes, PagerConfig config = {}) {
    pages_ = pages;
    const uint64_t bytes = pages * kPage;
    RegionConfig region = {{GuestPhys(kGuestGpa), bytes}, nullptr, -1, 0};
    void* at;
    if (GetParam() == Kind::kMemfd) {
      ram_fd_ = UniqueFd(memfd_create("ram", MFD_CLOEXEC | MFD_ALLOW_SEALING));
      ASSERT_EQ(ftruncate(ram_fd_.get(), static_cast<off_t>(bytes)), 0);
      at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ram_fd_.get(), 0);
      region.fd = ram_fd_.get();
    } else {
      at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
    ASSERT_NE(at, MAP_FAILED);
    ram_ = static_cast<std::byte*>(at);
    region.hva = ram_;
    auto memory = GuestMemory::Create({&region, 1});
    ASSERT_TRUE(memory.ok()) << memory.status();
    memory_ = std::make_unique<GuestMemory>(std::move(*memory));
    auto pool = PageFile::Create(std::filesystem::temp_directory_path().string(), pool_bytes);
    ASSERT_TRUE(pool.ok()) << pool.status();
    pool_ = std::move(*pool);
    threads_ = *ServingThreads::Create();
    config.threads = threads_;
    config.pool = PoolOf(pool_);
    if (config.lost == nullptr) {
      config.lost = [this](uint64_t owner, GuestPhys gpa, const absl::Status& why) {
        const std::lock_guard<std::mutex> lock(lost_mutex_);
        lost_.push_back({owner, static_cast<uint64_t>(gpa), why});
      };
    }
    auto pager = Pager::Create(memory_.get(), config);
    ASSERT_TRUE(pager.ok()) << pager.status();
    pager_ = std::move(*pager);
    Serve(threads);
    while (threads_->count() < threads) std::this_thread::yield();
  }
  // What the pager gets for it.
  virtual std::shared_ptr<PagePool> PoolOf(std::shared_ptr<PageFile> file) { return file; }
  void Serve(int threads) {
    for (int i = 0; i < threads; ++i) serving_.emplace_back([this] { pager_->Serve(); });
  }
  void TearDown() override {
    if (pager_ == nullptr) return;
    pager_->Stop();
    for (std::thread& thread : serving_) thread.join();
    pager_.reset();
    munmap(ram_, pages_ * kPage);
  }

  std::byte* Page(uint64_t i) const { return ram_ + i * kPage; }
  uint64_t Word(uint64_t page, uint64_t word = 0) const {
    return __atomic_load_n(reinterpret_cast<uint64_t*>(Page(page)) + word, __ATOMIC_RELAXED);
  }
  static uint64_t Pattern(uint64_t page, uint64_t word) {
    return (page * 0x9e3779b97f4a7c15 + word * 0xff51afd7ed558ccd) | 1;
  }
  // Every eighth page is zero, every sixteenth was never touched.
  static bool Untouched(uint64_t page) { return page % 16 == 3; }
  static bool Zero(uint64_t page) { return page % 8 == 3; }
  void FillPage(uint64_t page) {
    if (Untouched(page)) return;
    auto* const words = reinterpret_cast<uint64_t*>(Page(page));
    for (uint64_t w = 0; w < kPage / 8; ++w) words[w] = Zero(page) ? 0 : Pattern(page, w);
  }
  void FillRam() {
    for (uint64_t page = 0; page < pages_; ++page) FillPage(page);
  }
  bool PageIsWhole(uint64_t page) const {
    for (uint64_t w = 0; w < kPage / 8; ++w) {
      if (Word(page, w) != (Zero(page) ? 0 : Pattern(page, w))) return false;
    }
    return true;
  }
  // The last fault's neighbours may still be on their way.
  void DropAll() {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (!pager_->DropOwner(kOwner)) {
      ASSERT_LT(std::chrono::steady_clock::now(), deadline);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  // Who touched a page goes on before the thread that served it has given back its slot, and those of its neighbours.
  void ExpectPoolIsEmpty() const {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (pool_->used_bytes() != 0 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
    EXPECT_EQ(pool_->used_bytes(), 0u);
  }
  void ExpectWhole(uint64_t first, uint64_t count) const {
    for (uint64_t page = first; page < first + count; ++page) ASSERT_TRUE(PageIsWhole(page)) << page;
  }
  static GuestRange Range(uint64_t page, uint64_t count = 1) {
    return {GuestPhys(kGuestGpa + page * kPage), count * kPage};
  }
  // Pages [first, first + count) as the function sees them: scattered, in short runs, by virtual address.
  std::vector<OffloadRun> Scattered(uint64_t first, uint64_t count) const {
    std::vector<OffloadRun> runs;
    for (uint64_t i = 0; i < count; ++i) runs.push_back({Range(first + i), 0, 1});
    std::mt19937 random(static_cast<unsigned>(first + count));
    std::shuffle(runs.begin(), runs.end(), random);
    uint64_t va = kVa;
    for (OffloadRun& run : runs) {
      run.va = va;
      va += kPage;
    }
    return runs;
  }
  std::vector<OffloadRun> Straight(uint64_t first, uint64_t count) const {
    return {{Range(first, count), kVa + first * kPage, 1}};
  }
  OffloadResult Offload(const std::vector<OffloadRun>& runs, uint64_t owner = kOwner) {
    const auto result = pager_->Offload(owner, runs);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.value_or(OffloadResult());
  }
  // A served fault is accounted for a moment after its page is there.
  void AwaitPool(uint64_t bytes) const {
    while (pool_->used_bytes() != bytes) std::this_thread::yield();
  }
  void AwaitOut(uint64_t bytes) const {
    for (PagerCounts counts;
         counts = pager_->owner_stats(kOwner), counts.offloaded_bytes + counts.zero_bytes != bytes;) {
      std::this_thread::yield();
    }
  }
  // Bytes of guest RAM that the host has given memory for.
  uint64_t HostBytes() const {
    if (GetParam() == Kind::kMemfd) {
      struct stat info;
      EXPECT_EQ(fstat(ram_fd_.get(), &info), 0);
      return static_cast<uint64_t>(info.st_blocks) * 512;
    }
    std::vector<unsigned char> there(pages_);
    EXPECT_EQ(mincore(ram_, pages_ * kPage, there.data()), 0);
    uint64_t pages = 0;
    for (const unsigned char each : there) pages += each & 1;
    return pages * kPage;
  }
  size_t Lost() {
    const std::lock_guard<std::mutex> lock(lost_mutex_);
    return lost_.size();
  }

  struct LostPage {
    uint64_t owner;
    uint64_t gpa;
    absl::Status why;
  };
  uint64_t pages_ = 0;
  UniqueFd ram_fd_;
  std::byte* ram_ = nullptr;
  std::unique_ptr<GuestMemory> memory_;
  std::shared_ptr<PageFile> pool_;
  std::shared_ptr<ServingThreads> threads_;
  std::unique_ptr<Pager> pager_;
  std::vector<std::thread> serving_;
  std::mutex lost_mutex_;
  std::vector<LostPage> lost_;
};

inline std::string KindName(const ::testing::TestParamInfo<Kind>& info) {
  return info.param == Kind::kMemfd ? "Memfd" : "Anonymous";
}

}  // namespace moult::host::testing

#endif  // MOULT_TESTS_UNIT_HOST_PAGER_FIXTURE_H_
