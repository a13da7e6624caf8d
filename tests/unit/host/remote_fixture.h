// SPDX-License-Identifier: Apache-2.0
//
// A template in a pool that a test scripts, a cache in /dev/shm, and vms that show it: a window and serving
// threads each.
#ifndef MOULT_TESTS_UNIT_HOST_REMOTE_FIXTURE_H_
#define MOULT_TESTS_UNIT_HOST_REMOTE_FIXTURE_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <condition_variable>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "moult/protocol/digest.h"
#include "moult/protocol/limits.h"
#include "remote/remote_pager.h"

namespace moult::host::testing {

inline constexpr uint64_t kChunk = image::kPagesChunk;
inline constexpr uint64_t kChunks = 6;
inline constexpr uint64_t kTemplateBytes = (kChunks - 1) * kChunk + 3 * kPage;  // the last is short
inline constexpr uint64_t kOfChunk = kChunk / kPage;  // pages
inline constexpr uint64_t kTemplatePages = kTemplateBytes / kPage;

inline std::byte ContentAt(uint64_t offset) {
  return std::byte(1 + (offset / 8 * 0x9e3779b97f4a7c15 >> 56) % 255);
}

inline std::vector<std::byte> Content() {
  std::vector<std::byte> content(kTemplateBytes);
  for (uint64_t i = 0; i < content.size(); ++i) content[i] = ContentAt(i);
  return content;
}

inline std::vector<uint8_t> LeavesOf(const std::vector<std::byte>& content, uint32_t format = image::kFormatVersion) {
  std::vector<uint8_t> leaves;
  for (uint64_t at = 0; at < content.size(); at += kChunk) {
    const auto digest = image::LeafDigest(format, absl::MakeSpan(content).subspan(at, kChunk));
    leaves.insert(leaves.end(), digest.begin(), digest.end());
  }
  return leaves;
}

class FakeRemote : public RemoteTemplate {
 public:
  // What becomes of the nth read (from 0): an error, or OK, after which `piece` may be damaged.
  using Script = std::function<absl::Status(int nth, uint64_t chunk)>;

  const std::string& manifest_file() const override { return nothing_; }
  const std::string& image_file() const override { return nothing_; }
  uint64_t pages_size() const override { return content_.size(); }
  absl::Status Read(absl::Span<const PoolPiece> pieces, Clock::time_point) override {
    for (const PoolPiece& piece : pieces) {
      Script script;
      int nth;
      {
        const std::lock_guard<std::mutex> lock(mutex_);
        nth = reads_++;
        chunks_.push_back(piece.offset / kChunk);
        pieces_.push_back({piece.offset / kPage, piece.to.size() / kPage});
        script = script_;
      }
      const absl::Status status = script ? script(nth, piece.offset / kChunk) : absl::OkStatus();
      std::copy_n(content_.begin() + static_cast<std::ptrdiff_t>(piece.offset), piece.to.size(),
                  piece.to.begin());
      if (absl::IsDataLoss(status)) {
        piece.to[piece.to.size() / 2] ^= std::byte{1};  // A bit flips on the way.
      } else if (!status.ok()) {
        return status;
      }
    }
    return absl::OkStatus();
  }
  void SetScript(Script script) {
    const std::lock_guard<std::mutex> lock(mutex_);
    script_ = std::move(script);
  }
  int reads() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return reads_;
  }
  // What was read: (first page, pages).
  std::vector<std::pair<uint64_t, uint64_t>> pieces() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return pieces_;
  }
  std::vector<uint64_t> chunks() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return chunks_;
  }

 private:
  const std::string nothing_;
  const std::vector<std::byte> content_ = Content();
  mutable std::mutex mutex_;  // guards the rest
  Script script_;
  int reads_ = 0;
  std::vector<uint64_t> chunks_;
  std::vector<std::pair<uint64_t, uint64_t>> pieces_;
};

// One whose pool has the digests of its pages.
class DigestedRemote final : public FakeRemote {
 public:
  DigestedRemote() {
    const std::vector<std::byte> content = Content();
    for (uint64_t at = 0; at < content.size(); at += kPage) {
      const auto digest = image::PageDigest(absl::MakeSpan(content).subspan(at, kPage));
      const auto bytes = absl::MakeConstSpan(reinterpret_cast<const std::byte*>(digest.data()), digest.size());
      digests_.insert(digests_.end(), bytes.begin(), bytes.end());
    }
  }
  bool has_page_digests() const override { return true; }
  absl::Status ReadWithDigests(absl::Span<const PoolPiece> pieces, absl::Span<const PoolPiece> digests, Clock::time_point deadline) override {
    for (const PoolPiece& piece : digests) {
      EXPECT_LE(piece.offset + piece.to.size(), digests_.size());
      std::copy_n(digests_.begin() + static_cast<std::ptrdiff_t>(piece.offset), piece.to.size(), piece.to.begin());
      ++digest_reads_;
      // A bit flips on the way.
      if (damaged_ >= piece.offset && damaged_ < piece.offset + piece.to.size()) piece.to[damaged_ - piece.offset] ^= std::byte{1};
    }
    return Read(pieces, deadline);
  }
  // This byte of the digests is wrong from now on.
  void Damage(uint64_t at) { damaged_ = at; }
  int digest_reads() const { return digest_reads_; }

 private:
  std::vector<std::byte> digests_;
  std::atomic<uint64_t> damaged_ = UINT64_MAX;
  std::atomic<int> digest_reads_ = 0;
};

// What one VM has: memory where a template is shown, and threads that serve it.
class FakeVm {
 public:
  explicit FakeVm(RemoteConfig config = {}, int threads = 2) {
    memory_ = static_cast<std::byte*>(
        mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (!config.lost) {
      config.lost = [this](uint64_t function, const std::byte* page, const absl::Status& why) {
        const std::lock_guard<std::mutex> lock(mutex_);
        lost_.push_back({function, page, why});
        changed_.notify_all();
      };
    }
    pager_ = *RemotePager::Create(std::move(config));
    for (int i = 0; i < threads; ++i) serving_.emplace_back([this] { pager_->Serve(); });
  }
  ~FakeVm() {
    Stop();
    munmap(memory_, kBytes);
  }
  void Stop() {
    if (pager_ == nullptr) return;
    pager_->Stop();
    for (std::thread& thread : serving_) thread.join();
    pager_.reset();
  }
  RemotePager& pager() { return *pager_; }
  std::byte* memory() const { return memory_; }
  uint8_t Byte(uint64_t offset) const {
    return __atomic_load_n(reinterpret_cast<uint8_t*>(memory_ + offset), __ATOMIC_RELAXED);
  }
  bool IsRight(uint64_t offset) const { return std::byte(Byte(offset)) == ContentAt(offset); }
  // At every `step`th byte; 1: all of them.
  bool IsAllRight(uint64_t step = 64) const {
    for (uint64_t at = 0; at < kTemplateBytes; at += step) {
      if (!IsRight(at)) return false;
    }
    return true;
  }
  struct Lost {
    uint64_t function;
    const std::byte* page;
    absl::Status why;
  };
  // Waits for `count` of them.
  std::vector<Lost> AwaitLost(size_t count) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return lost_.size() >= count; });
    return lost_;
  }

 private:
  static constexpr uint64_t kBytes = 2 << 20;
  std::byte* memory_;
  std::unique_ptr<RemotePager> pager_;
  std::vector<std::thread> serving_;
  std::mutex mutex_;  // guards lost_
  std::condition_variable changed_;
  std::vector<Lost> lost_;
};

class RemoteTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = "/dev/shm/moult-test-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    cache_ = OpenCache();
  }
  void TearDown() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  std::shared_ptr<const TemplateCache> OpenCache(uint64_t limit = 64 << 20) {
    auto cache = TemplateCache::Open(folder_, "red", limit);
    EXPECT_TRUE(cache.ok()) << cache.status();
    return *std::move(cache);
  }
  // As another process would have them: its own descriptor and lock.
  std::shared_ptr<RemotePages> Pages(std::shared_ptr<FakeRemote> source) {
    auto entry = cache_->Take(kDigest, kTemplateBytes);
    EXPECT_TRUE(entry.ok()) << entry.status();
    return Pages(std::move(source), *std::move(entry));
  }
  std::shared_ptr<RemotePages> Pages(std::shared_ptr<FakeRemote> source, CacheEntry entry) {
    const std::vector<uint8_t> leaves = LeavesOf(Content(), format_);
    auto pages = RemotePages::Create(kDigest, kDigest, {format_, leaves}, std::move(source), std::move(entry), cache_);
    EXPECT_TRUE(pages.ok()) << pages.status();
    return *std::move(pages);
  }
  // Until the file has all of them.
  static void AwaitAll(const RemotePages& pages) {
    for (uint64_t chunk = 0; chunk < pages.chunks(); ++chunk) {
      while (!pages.Has(chunk)) usleep(1000);
    }
  }
  // Every page of the file is right or a hole; how many are there.
  uint64_t CheckFile(int fd) {
    uint64_t there = 0;
    std::vector<std::byte> page(kPage);
    for (uint64_t at = 0; at < kTemplateBytes; at += kPage) {
      const off_t data = lseek(fd, static_cast<off_t>(at), SEEK_DATA);
      if (data < 0 || static_cast<uint64_t>(data) != at) continue;
      ++there;
      EXPECT_EQ(pread(fd, page.data(), kPage, static_cast<off_t>(at)), static_cast<ssize_t>(kPage));
      for (uint64_t i = 0; i < kPage; ++i) {
        if (page[i] != ContentAt(at + i)) {
          ADD_FAILURE() << "byte " << at + i << " of the cache is wrong";
          return there;
        }
      }
    }
    return there;
  }
  // A process that fills the file for ever, and is killed amid that. `fill` tells each time that it is on its way.
  static void KillAsItFills(const std::function<void(const std::function<void()>& tell)>& fill) {
    int ready[2];
    ASSERT_EQ(pipe(ready), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      fill([&] { (void)!write(ready[1], "x", 1); });
      _exit(1);
    }
    char one;
    for (int i = 0; i < 20; ++i) ASSERT_EQ(read(ready[0], &one, 1), 1);
    ASSERT_EQ(kill(child, SIGKILL), 0);
    int status;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status));
    close(ready[0]);
    close(ready[1]);
  }
  static RemoteConfig Quick(std::chrono::milliseconds deadline = std::chrono::milliseconds(100)) {
    RemoteConfig config;
    config.retry = {.deadline = deadline, .attempt = std::chrono::milliseconds(100)};
    return config;
  }

  static constexpr char kDigest[] = "aaaabbbb";
  uint32_t format_ = image::kFormatVersion;
  std::string folder_;
  std::shared_ptr<const TemplateCache> cache_;
  std::shared_ptr<FakeRemote> source_ = std::make_shared<FakeRemote>();
};

}  // namespace moult::host::testing

#endif  // MOULT_TESTS_UNIT_HOST_REMOTE_FIXTURE_H_
