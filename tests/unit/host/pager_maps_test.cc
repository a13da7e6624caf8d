// SPDX-License-Identifier: Apache-2.0
//
// A process at vm.max_map_count: each piece of guest RAM that is registered cuts its mapping in two or three.
#include <malloc.h>

#include <cstdlib>
#include <fstream>

#include "few_maps.h"
#include "pager_fixture.h"

namespace moult::host::testing {
namespace {

using moult::testing::FewMaps;
using ::testing::HasSubstr;

class PagerMaps : public PagerTest {
 protected:
  static constexpr uint64_t kParts = 24;
  static constexpr uint64_t kApart = 2 * Chunk::kPages;

  void SetUp() override {
    if (moult::testing::kIsSanitized) GTEST_SKIP() << "this sanitizer's allocator ends a process without mappings";
    if (!FewMaps(0).full()) GTEST_SKIP() << "vm.max_map_count is too high to be reached here";
    // A thread that was killed, in another test, leaves what it had.
    others_ = AllRegistered();
    Start(kParts * kApart);
    // Its threads have what memory they take once they have served.
    for (uint64_t i = 0; i < kParts; ++i) FillPage(Part(i));
    Offload(Apart());
    ExpectAllIsWell();
    AwaitPool(0);
    ExpectNothingIsRegistered();
  }
  // Not one of those that are zero.
  static uint64_t Part(uint64_t i) { return i * kApart + 1; }
  // A page of each part: two mappings each.
  static std::vector<OffloadRun> Apart() {
    std::vector<OffloadRun> runs;
    for (uint64_t i = 0; i < kParts; ++i) runs.push_back({Range(Part(i)), kVa + i * kPage, 1});
    return runs;
  }
  void ExpectAllIsWell() const {
    for (uint64_t i = 0; i < kParts; ++i) ASSERT_TRUE(PageIsWhole(Part(i))) << i;
  }
  // Mappings of this process that a userfaultfd has. Not all there are: a registration that fails may have cut one already,
  // which the kernel leaves so.
  static size_t AllRegistered() {
    std::ifstream smaps("/proc/self/smaps");
    size_t count = 0;
    for (std::string line; std::getline(smaps, line);)
      count += line.starts_with("VmFlags:") && line.find(" um") != std::string::npos ? 1 : 0;
    return count;
  }
  size_t Registered() const { return AllRegistered() - others_; }
  // The last fault's chunk is retired a moment after its page is there.
  void ExpectNothingIsRegistered() const {
    for (int tries = 0; tries < 200 && Registered() != 0; ++tries) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    EXPECT_EQ(Registered(), 0u);
  }

  size_t others_ = 0;
};
INSTANTIATE_TEST_SUITE_P(Kinds, PagerMaps, ::testing::Values(Kind::kMemfd, Kind::kAnonymous), KindName);

TEST_P(PagerMaps, Offload_MovesNothing_AndSaysWhatToDo) {
  for (const size_t left : {size_t{0}, size_t{1}, size_t{2}, size_t{3}, size_t{8}, size_t{kParts}}) {
    SCOPED_TRACE(left);
    absl::StatusOr<OffloadResult> result = OffloadResult();
    {
      const FewMaps few(left);
      result = pager_->Offload(kOwner, Apart());
    }
    ASSERT_EQ(result.status().code(), absl::StatusCode::kResourceExhausted) << result.status();
    EXPECT_THAT(std::string(result.status().message()), HasSubstr("offload of function 7: "));
    EXPECT_THAT(std::string(result.status().message()), HasSubstr("raise vm.max_map_count"));
    EXPECT_EQ(pool_->used_bytes(), 0u);
    EXPECT_EQ(pager_->owner_stats(kOwner).offloaded_bytes, 0u);
    ExpectNothingIsRegistered();
    ExpectAllIsWell();
  }
  const FewMaps enough(2 * kParts + 4);
  EXPECT_EQ(Offload(Apart()).moved_bytes, kParts * kPage);
  ExpectAllIsWell();
}

TEST_P(PagerMaps, WhatIsOut_ComesBack_WithNoMappingLeft) {
  Offload(Apart());
  {
    const FewMaps none(0);
    for (uint64_t i = 0; i < kParts; i += 2) ASSERT_TRUE(PageIsWhole(Part(i))) << i;
    EXPECT_TRUE(pager_->Recall(kOwner, Prefetch::kAll).ok());
    ExpectAllIsWell();
  }
  AwaitPool(0);
  ExpectNothingIsRegistered();
}

// Three neighbours are one mapping: that the middle one is not registered any more takes two.
TEST_P(PagerMaps, WhatCannotBeCutOut_IsGivenBackLater) {
  std::vector<OffloadRun> runs;
  for (uint64_t i = 0; i < 3; ++i) {
    const uint64_t page = Part(2) + i * Chunk::kPages;
    FillPage(page);
    runs.push_back({Range(page), kVa + i * kPage, 1});
  }
  Offload(runs);
  EXPECT_EQ(Registered(), 1u);
  {
    // What is looked at here is the pager's mappings: the allocator has what it will be asked for.
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    mallopt(M_TRIM_THRESHOLD, 64 << 20);
    free(malloc(8 << 20));
    const FewMaps none(0);
    EXPECT_TRUE(pager_->Populate(runs[1].range).ok());
  }
  EXPECT_EQ(Registered(), 1u);
  EXPECT_TRUE(PageIsWhole(Part(2) + Chunk::kPages));
  EXPECT_TRUE(pager_->Recall(kOwner, Prefetch::kAll).ok());
  ExpectNothingIsRegistered();
  for (uint64_t i = 0; i < 3; ++i) EXPECT_TRUE(PageIsWhole(Part(2) + i * Chunk::kPages)) << i;
}

// Of what it takes to move much the allocator wants mappings as well.
TEST_P(PagerMaps, LargeOffload_IsAllOrNothing) {
  FillRam();
  for (const size_t left : {size_t{0}, size_t{1}, size_t{2}, size_t{4}, size_t{6}}) {
    SCOPED_TRACE(left);
    absl::StatusOr<OffloadResult> result = OffloadResult();
    {
      const FewMaps few(left);
      result = pager_->Offload(kOwner, Straight(0, pages_));
    }
    if (!result.ok()) {
      ASSERT_EQ(result.status().code(), absl::StatusCode::kResourceExhausted) << result.status();
      EXPECT_THAT(std::string(result.status().message()), HasSubstr("raise vm.max_map_count"));
      EXPECT_EQ(pool_->used_bytes(), 0u);
      ExpectNothingIsRegistered();
    }
    EXPECT_TRUE(pager_->Recall(kOwner, Prefetch::kAll).ok());
    ExpectWhole(0, pages_);
  }
  Offload(Straight(0, pages_));
  DropAll();
}

}  // namespace
}  // namespace moult::host::testing
