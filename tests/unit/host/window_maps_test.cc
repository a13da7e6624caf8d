// SPDX-License-Identifier: Apache-2.0
//
// A window's slots in a process that is at vm.max_map_count: shown as a whole, or not at all.
#include "window/window.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "few_maps.h"
#include "moult/base/unique_fd.h"

namespace moult::host::testing {
namespace {

using moult::testing::FewMaps;
using ::testing::HasSubstr;

constexpr uint64_t kLength = 4 * kSlotAlign;
constexpr uint64_t kShown = kSlotAlign - (64 << 10);  // less than a slot: what is after it is one mapping more

class WindowMaps : public ::testing::Test {
 protected:
  void SetUp() override {
    if (moult::testing::kIsSanitized) GTEST_SKIP() << "this sanitizer's allocator ends a process without mappings";
    if (!FewMaps(0).full()) GTEST_SKIP() << "vm.max_map_count is too high to be reached here";
    void* const at = mmap(nullptr, kLength, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ASSERT_NE(at, MAP_FAILED);
    memory_ = static_cast<std::byte*>(at);
    pages_ = UniqueFd(memfd_create("pages", MFD_CLOEXEC));
    const std::vector<char> sevens(kShown, 7);
    ASSERT_EQ(write(pages_.get(), sevens.data(), sevens.size()), static_cast<ssize_t>(sevens.size()));
  }
  void TearDown() override {
    if (memory_ != nullptr) munmap(memory_, kLength);
  }
  SlotContent Content(const std::string& name) const { return {name, name, pages_.get(), kShown, nullptr, nullptr}; }
  Window MakeWindow() const { return Window({0, memory_, kLength, 0}, [](uint32_t, uint64_t, uint64_t) {}); }
  // All of it is mapped: a hole would end this process.
  void ExpectBytes(uint64_t from, uint64_t to, int value) const {
    EXPECT_TRUE(std::all_of(memory_ + from, memory_ + to, [&](std::byte each) { return each == std::byte(value); })) << from;
  }

  std::byte* memory_ = nullptr;
  UniqueFd pages_;
};

TEST_F(WindowMaps, Take_ShowsAllOrNothing_AndSaysWhatToDo) {
  size_t refused = 0;
  for (size_t left = 0; left <= 6; ++left) {
    SCOPED_TRACE(left);
    Window window = MakeWindow();
    absl::StatusOr<Slot*> slot = nullptr;
    {
      const FewMaps few(left);
      slot = window.Take(Content("one"), kLength);
    }
    ExpectBytes(kSlotAlign, kLength, 0);
    ExpectBytes(kShown, kSlotAlign, 0);
    ExpectBytes(0, kShown, slot.ok() ? 7 : 0);
    if (!slot.ok()) {
      ++refused;
      EXPECT_EQ(slot.status().code(), absl::StatusCode::kResourceExhausted);
      EXPECT_THAT(std::string(slot.status().message()), HasSubstr("window 0 at offset 0: ENOMEM"));
      EXPECT_THAT(std::string(slot.status().message()), HasSubstr("raise vm.max_map_count"));
      EXPECT_TRUE(window.slots().empty());
      slot = window.Take(Content("one"), kLength);  // There are mappings again.
      ASSERT_TRUE(slot.ok()) << slot.status();
      ExpectBytes(0, kShown, 7);
    }
    window.Attached(*slot, 0);
    EXPECT_TRUE(window.slots().empty());
    ExpectBytes(0, kLength, 0);
  }
  EXPECT_GT(refused, 0u);
  EXPECT_LT(refused, 7u);
}

// Between two others it cannot be emptied, then: it shows what it showed, and goes with the next.
TEST_F(WindowMaps, Slots_AreShownAndEmptied_WithWhatMappingsTheyHave) {
  Window window = MakeWindow();
  for (const char* name : {"one", "two", "three"}) {
    const auto slot = window.Take(Content(name), kLength);
    ASSERT_TRUE(slot.ok()) << slot.status();
    window.Attached(*slot, 10 + window.slots().size());
  }
  {
    const FewMaps none(0);
    const auto again = window.Take(Content("two"), kLength);
    ASSERT_TRUE(again.ok()) << again.status();
    window.Attached(*again, 20);
    window.Drop(20);
    window.Drop(12);
  }
  window.Drop(11);
  window.Drop(13);
  EXPECT_TRUE(window.slots().empty());
  ExpectBytes(0, kLength, 0);
}

}  // namespace
}  // namespace moult::host::testing
