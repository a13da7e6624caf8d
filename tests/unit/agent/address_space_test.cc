// SPDX-License-Identifier: Apache-2.0
#include "ledger/address_space.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <optional>

#include "is_sanitized.h"
#include "moult/base/page.h"
#include "moult/base/unique_fd.h"
#include "resource/memory/pagemap_scan.h"

namespace moult::agent {
namespace {

constexpr uint64_t kReserve = 8ull << 30;

// A process with a reserve of which it has touched a few pages: alone, in pairs, at both ends, and a long run.
class AddressSpacesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    int ready[2];
    ASSERT_EQ(pipe(ready), 0);
    child_ = fork();
    ASSERT_GE(child_, 0);
    if (child_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      void* const at = mmap(nullptr, kReserve, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      madvise(at, kReserve, MADV_NOHUGEPAGE);
      for (const uint64_t page : Touched()) static_cast<volatile char*>(at)[page * kPage] = 1;
      // Read only: the kernel's zero page.
      (void)static_cast<volatile char*>(at)[kReadOnly * kPage];
      (void)!write(ready[1], &at, sizeof(at));
      for (;;) pause();
    }
    close(ready[1]);
    ASSERT_EQ(read(ready[0], &start_, sizeof(start_)), static_cast<ssize_t>(sizeof(start_)));
    close(ready[0]);
  }
  void TearDown() override {
    kill(child_, SIGKILL);
    waitpid(child_, nullptr, 0);
  }

  static constexpr uint64_t kReadOnly = 700'000;
  static std::vector<uint64_t> Touched() {
    std::vector<uint64_t> pages{0, 1, 60, 200, 4096, 524'288, kReserve / kPage - 1};
    for (uint64_t page = 100'000; page < 140'000; ++page) pages.push_back(page);
    for (uint64_t page = 300'000; page < 302'000; page += 2) pages.push_back(page);
    std::sort(pages.begin(), pages.end());
    return pages;
  }

  // By this thread, from files of whatever kind.
  static std::optional<uint64_t> BytesRead() {
    std::ifstream io("/proc/thread-self/io");
    std::string name;
    uint64_t bytes = 0;
    if (io >> name >> bytes && name == "rchar:") return bytes;
    return std::nullopt;
  }

  pid_t child_ = -1;
  uint64_t start_ = 0;
};

TEST_F(AddressSpacesTest, LargeMapping_HoldsWhatWasTouchedByEitherSource) {
  if (moult::testing::kIsSanitized) GTEST_SKIP() << "pagemap has an entry for each page of the sanitizer's shadow";
  const UniqueFd pagemap(open(absl::StrCat("/proc/", child_, "/pagemap").c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(pagemap.valid());
  AddressSpaces best, read(PresentPages::Source::kPagemap);
  const absl::Status added = read.Add(child_, 0);
  if (absl::IsPermissionDenied(added)) GTEST_SKIP() << added;
  ASSERT_TRUE(added.ok()) << added;
  ASSERT_TRUE(best.Add(child_, 0).ok());
  best.Sort();
  read.Sort();
  EXPECT_EQ(best.mappings(), read.mappings());
  std::vector<uint64_t> pages, expected = Touched();
  expected.insert(std::upper_bound(expected.begin(), expected.end(), kReadOnly), kReadOnly);
  for (const Mapping& mapping : best.mappings()) {
    if (mapping.va >= start_ && mapping.va < start_ + kReserve) pages.push_back((mapping.va - start_) / kPage);
  }
  std::sort(pages.begin(), pages.end());
  EXPECT_EQ(pages, expected);
  if (!engine::CanScan(pagemap.get(), engine::kIsPresent)) GTEST_SKIP() << "this kernel has no PAGEMAP_SCAN";
}

// Of what is reserved and holds nothing no entry is read.
TEST_F(AddressSpacesTest, LargeMapping_IsScanned_WhereTheKernelCan) {
  if (moult::testing::kIsSanitized) GTEST_SKIP() << "pagemap has an entry for each page of the sanitizer's shadow";
  const UniqueFd pagemap(open(absl::StrCat("/proc/", child_, "/pagemap").c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(pagemap.valid());
  if (!engine::CanScan(pagemap.get(), engine::kIsPresent)) GTEST_SKIP() << "this kernel has no PAGEMAP_SCAN";
  if (!BytesRead().has_value()) GTEST_SKIP() << "this kernel does not count what a thread reads (CONFIG_TASK_IO_ACCOUNTING)";
  const auto read_by = [&](AddressSpaces spaces) {
    const uint64_t before = *BytesRead();
    const absl::Status added = spaces.Add(child_, 0);
    EXPECT_TRUE(added.ok()) << added;
    return *BytesRead() - before;
  };
  constexpr uint64_t kEntryBytes = 8;
  constexpr uint64_t kReserveEntries = kReserve / kPage * kEntryBytes;
  EXPECT_GE(read_by(AddressSpaces(PresentPages::Source::kPagemap)), kReserveEntries);
  EXPECT_LT(read_by(AddressSpaces()), kReserveEntries / 8) << "the entries of 42'000 pages, and what tells of mappings";
}

}  // namespace
}  // namespace moult::agent
