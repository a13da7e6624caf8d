// SPDX-License-Identifier: Apache-2.0
//
// The power goes at every store of 8 bytes and at every persist, with none, all, or any of what was not
// persisted kept: what is found then is what was, or what should be, whole.
#include <random>

#include "absl/strings/str_cat.h"
#include "dax_medium.h"

namespace moult::host::testing {
namespace {

using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::Eq;

using Names = std::vector<std::string>;

constexpr uint64_t kMediumBytes = 20 * kSmallBlock;

class DaxCutTest : public ::testing::Test {
 protected:
  using Check = std::function<void(const std::vector<std::byte>& image, bool last, const std::string& where)>;

  void SetUp() override {
    ASSERT_TRUE(FormatDax(&medium_, {.block = kSmallBlock}, DaxDeadline()).ok());
    Run([](DaxVolume& volume) { return volume.Add(DaxSample{"a", 2}.content(), DaxDeadline()); });
    Run([](DaxVolume& volume) { return volume.Add(DaxSample{"b", 3}.content(), DaxDeadline()); });
  }
  void Run(const std::function<absl::Status(DaxVolume&)>& change) {
    auto volume = DaxVolume::Open(&medium_);
    ASSERT_TRUE(volume.ok()) << volume.status();
    const absl::Status status = change(*volume);
    ASSERT_TRUE(status.ok()) << status;
  }
  Names Now() const {
    RecordedMedium copy(medium_.memory_);
    return NamesIn(*DaxVolume::Open(&copy)->Read());
  }
  // All that a cut during what was logged since `before` may leave. `last`: it had returned.
  static void AtEveryCut(const std::vector<std::byte>& before, const std::vector<DaxEvent>& log,
                         const Check& check) {
    std::minstd_rand random(7);
    const std::pair<const char*, std::function<uint64_t(uint64_t)>> kept[] = {
        {"nothing", [](uint64_t) { return uint64_t{0}; }},
        {"all", [](uint64_t n) { return n; }},
        {"some", [&](uint64_t n) { return random() % (n + 1); }},
        {"a few", [&](uint64_t n) { return random() % 16 == 0 ? n : 0; }},
        {"most", [&](uint64_t n) { return random() % 16 == 0 ? 0 : n; }},
    };
    PowerCut cut(before);
    for (size_t event = 0; event <= log.size(); ++event) {
      const bool last = event == log.size();
      const uint64_t units = last ? 1 : PowerCut::Units(log[event]);
      for (uint64_t unit = 0; unit < units; ++unit) {
        for (const auto& [what, choose] : kept) {
          check(cut.Image(choose), last, absl::StrCat("event ", event, " unit ", unit, ", kept: ", what));
          if (::testing::Test::HasFailure()) return;
        }
        if (last) return;
        if (log[event].persist)
          cut.Apply(log[event]);
        else
          cut.ApplyUnit(log[event], unit);
      }
    }
  }
  // `change` leaves the old names or the new ones, whatever cuts it.
  void CutDuring(const std::function<absl::Status(DaxVolume&)>& change) {
    const std::vector<std::byte> before = medium_.memory_;
    const Names old_names = Now();
    medium_.log_.clear();
    Run(change);
    const Names new_names = Now();
    ASSERT_NE(old_names, new_names);
    int cut = 0;
    AtEveryCut(
        before, medium_.log_, [&](const std::vector<std::byte>& image, bool last, const std::string& where) {
          RecordedMedium left(image);
          auto volume = DaxVolume::Open(&left);
          ASSERT_TRUE(volume.ok()) << where << ": " << volume.status();
          const auto directory = volume->Read();
          ASSERT_TRUE(directory.ok()) << where << ": " << directory.status();
          const Names names = NamesIn(*directory);
          ASSERT_THAT(names, AnyOf(Eq(old_names), Eq(new_names))) << where;
          if (last) {
            ASSERT_EQ(names, new_names) << where << ": it had returned";
          }
          uint64_t used = 0;
          for (const DaxEntry& entry : directory->entries) {
            ASSERT_EQ(WhatIsWrong(left, volume->geometry(), entry), "") << where;
            used += entry.blocks();
          }
          // All that no template has can be used, to the last block. Looked at now and then, since it takes
          // long.
          if (cut++ % 16 != 0 && !last) return;
          const uint64_t all = volume->geometry().end_block() - volume->geometry().first_block();
          const absl::Status filled = volume->Add(DaxSample{"filler", all - used - 1}.content(), DaxDeadline());
          ASSERT_TRUE(filled.ok()) << where << ": " << filled;
          const auto full = volume->Read();
          ASSERT_TRUE(full.ok()) << where << ": " << full.status();
          for (const DaxEntry& entry : full->entries)
            ASSERT_EQ(WhatIsWrong(left, volume->geometry(), entry), "") << where << ", filled";
          ASSERT_TRUE(volume->Remove(names.empty() ? "filler" : names.front(), DaxDeadline()).ok()) << where;
        });
  }
  RecordedMedium medium_{kMediumBytes};
};

TEST_F(DaxCutTest, Add_IsWholeOrNotThere) {
  CutDuring([](DaxVolume& volume) { return volume.Add(DaxSample{"c", 1}.content(), DaxDeadline()); });
  EXPECT_THAT(Now(), ElementsAre("a", "b", "c"));
}

TEST_F(DaxCutTest, Remove_IsWholeOrNotDone) {
  CutDuring([](DaxVolume& volume) { return volume.Remove("a", DaxDeadline()); });
  EXPECT_THAT(Now(), ElementsAre("b"));
}

// It has made its change true, and not durable; then another one writes where what is durable lies.
TEST_F(DaxCutTest, WriterThatWasKilledBeforeItsLastPersist_HarmsNoOther) {
  const std::vector<std::byte> before = medium_.memory_;
  medium_.log_.clear();
  Run([](DaxVolume& volume) { return volume.Add(DaxSample{"c", 1}.content(), DaxDeadline()); });
  ASSERT_TRUE(medium_.log_.back().persist);
  medium_.log_.pop_back();
  Run([](DaxVolume& volume) { return volume.Add(DaxSample{"d", 1}.content(), DaxDeadline()); });
  AtEveryCut(
      before, medium_.log_, [&](const std::vector<std::byte>& image, bool last, const std::string& where) {
        RecordedMedium left(image);
        auto volume = DaxVolume::Open(&left);
        ASSERT_TRUE(volume.ok()) << where << ": " << volume.status();
        const auto directory = volume->Read();
        ASSERT_TRUE(directory.ok()) << where << ": " << directory.status();
        const Names names = NamesIn(*directory);
        ASSERT_THAT(names, AnyOf(Names({"a", "b"}), Names({"a", "b", "c"}), Names({"a", "b", "c", "d"})))
            << where;
        if (last) {
          ASSERT_EQ(names.size(), 4u) << where;
        }
        for (const DaxEntry& entry : directory->entries)
          ASSERT_EQ(WhatIsWrong(left, volume->geometry(), entry), "") << where;
      });
}

// Over blocks that had another template, in several runs, and with both directories written before.
TEST_F(DaxCutTest, Add_OverWhatWasRemovedIsWholeOrNotThere) {
  Run([](DaxVolume& volume) { return volume.Remove("a", DaxDeadline()); });
  Run([](DaxVolume& volume) {
    // Leaves the three blocks of "a", and two at the end.
    const uint64_t all = volume.geometry().end_block() - volume.geometry().first_block();
    return volume.Add(DaxSample{"most", all - 4 - 3 - 2 - 1}.content(), DaxDeadline());
  });
  CutDuring([](DaxVolume& volume) { return volume.Add(DaxSample{"in-pieces", 3}.content(), DaxDeadline()); });
}

TEST_F(DaxCutTest, Format_LeavesNoPoolOrAnEmptyOne) {
  const std::vector<std::byte> before = medium_.memory_;
  const auto old_volume = DaxVolume::Open(&medium_)->geometry().volume;
  medium_.log_.clear();
  ASSERT_TRUE(FormatDax(&medium_, {.block = kSmallBlock, .force = true}, DaxDeadline()).ok());
  int without = 0;
  AtEveryCut(before, medium_.log_,
             [&](const std::vector<std::byte>& image, bool last, const std::string& where) {
               RecordedMedium left(image);
               auto volume = DaxVolume::Open(&left);
               if (volume.ok()) {
                 const auto directory = volume->Read();
                 ASSERT_TRUE(directory.ok()) << where << ": " << directory.status();
                 const bool is_old = volume->geometry().volume == old_volume;
                 ASSERT_FALSE(last && is_old) << where;
                 ASSERT_EQ(NamesIn(*directory), is_old ? Names({"a", "b"}) : Names()) << where;
                 for (const DaxEntry& entry : directory->entries)
                   ASSERT_EQ(WhatIsWrong(left, volume->geometry(), entry), "") << where;
               } else {
                 ASSERT_FALSE(last) << where << ": " << volume.status();
                 ++without;
                 ASSERT_TRUE(FormatDax(&left, {.block = kSmallBlock, .force = true}, DaxDeadline()).ok()) << where;
                 ASSERT_TRUE(DaxVolume::Open(&left).ok()) << where;
               }
             });
  EXPECT_GT(without, 0);
}

// That the tests above can fail: a medium that says that it persisted, and did not.
TEST_F(DaxCutTest, ALostPersistIsFound) {
  const std::vector<std::byte> before = medium_.memory_;
  medium_.log_.clear();
  Run([](DaxVolume& volume) { return volume.Add(DaxSample{"c", 1}.content(), DaxDeadline()); });
  std::vector<DaxEvent> log = medium_.log_;
  std::erase_if(log, [](const DaxEvent& event) { return event.persist && event.range.at != kDaxWordAt; });
  int damaged = 0;
  AtEveryCut(before, log, [&](const std::vector<std::byte>& image, bool, const std::string&) {
    RecordedMedium left(image);
    auto volume = DaxVolume::Open(&left);
    ASSERT_TRUE(volume.ok());
    const auto directory = volume->Read();
    if (!directory.ok()) {
      ++damaged;
      return;
    }
    for (const DaxEntry& entry : directory->entries)
      damaged += WhatIsWrong(left, volume->geometry(), entry) != "";
  });
  EXPECT_GT(damaged, 0);
}

}  // namespace
}  // namespace moult::host::testing
