// SPDX-License-Identifier: Apache-2.0
#include <random>

#include "absl/strings/str_cat.h"
#include "dax_medium.h"

namespace moult::host::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class DaxVolumeTest : public ::testing::Test {
 protected:
  void Format(uint64_t blocks = 32) {
    medium_.memory_.assign(blocks * kSmallBlock, std::byte{0});
    ASSERT_TRUE(FormatDax(&medium_, {.block = kSmallBlock}, DaxDeadline()).ok());
  }
  DaxVolume Volume() {
    auto volume = DaxVolume::Open(&medium_);
    EXPECT_TRUE(volume.ok()) << volume.status();
    return *volume;
  }
  absl::Status Add(const std::string& name, uint64_t pages) {
    return Volume().Add(DaxSample{name, pages}.content(), DaxDeadline());
  }
  absl::Status Remove(const std::string& name) { return Volume().Remove(name, DaxDeadline()); }
  DaxEntry Entry(const std::string& name) {
    const auto directory = Volume().Read();
    EXPECT_TRUE(directory.ok()) << directory.status();
    const DaxEntry* const entry = directory->Find(name);
    EXPECT_NE(entry, nullptr) << name;
    return entry != nullptr ? *entry : DaxEntry{};
  }
  // Blocks of 4 KiB: as many as it has pages, and one for manifest and image.
  uint64_t FreeBlocks() {
    const DaxSpace space = *Volume().Space();
    return (space.total - space.used - space.held) / kSmallBlock;
  }
  RecordedMedium medium_{uint64_t{0}};
};

TEST_F(DaxVolumeTest, Template_ComesAndGoes_AndItsSpaceWithIt) {
  Format();
  const uint64_t empty = FreeBlocks();
  ASSERT_TRUE(Add("a", 3).ok());
  EXPECT_EQ(FreeBlocks(), empty - 4);
  EXPECT_EQ(WhatIsWrong(medium_, Volume().geometry(), Entry("a")), "");
  EXPECT_TRUE(absl::IsAlreadyExists(Add("a", 1)));
  EXPECT_THAT(Add("a", 1).message(), HasSubstr("pool on /dev/dax9.9: add a: is there already"));
  EXPECT_EQ(FreeBlocks(), empty - 4);
  ASSERT_TRUE(Add("none", 0).ok());
  EXPECT_EQ(WhatIsWrong(medium_, Volume().geometry(), Entry("none")), "");
  const uint64_t id = Entry("a").id;
  ASSERT_TRUE(Remove("a").ok());
  EXPECT_TRUE(absl::IsNotFound(Remove("a")));
  ASSERT_TRUE(Remove("none").ok());
  EXPECT_EQ(FreeBlocks(), empty);
  ASSERT_TRUE(Add("a", empty - 1).ok());
  EXPECT_EQ(FreeBlocks(), 0u);
  EXPECT_GT(Entry("a").id, id);
}

TEST_F(DaxVolumeTest, NoRoom_SaysHowMuchThereIs) {
  Format();
  const uint64_t empty = FreeBlocks();
  ASSERT_TRUE(Add("a", 10).ok());
  const absl::Status full = Add("b", empty - 11);
  EXPECT_TRUE(absl::IsResourceExhausted(full));
  EXPECT_THAT(full.message(), HasSubstr(absl::StrCat("needs ", (empty - 10) * kSmallBlock,
                                                     " bytes, free are ", (empty - 11) * kSmallBlock)));
  EXPECT_TRUE(Add("b", empty - 12).ok());
}

TEST_F(DaxVolumeTest, FailedSource_LeavesNothing) {
  Format();
  const uint64_t empty = FreeBlocks();
  const DaxSample sample{"a", 2};
  DaxContent content = sample.content();
  content.read_pages = [](uint64_t, absl::Span<std::byte>) { return absl::DataLossError("chunk 0"); };
  const absl::Status status = Volume().Add(content, DaxDeadline());
  EXPECT_TRUE(absl::IsDataLoss(status));
  EXPECT_THAT(status.message(), HasSubstr("add a: chunk 0"));
  EXPECT_TRUE(absl::IsInvalidArgument(Add("a b", 1)));
  EXPECT_TRUE(absl::IsInvalidArgument(Add(std::string(65, 'a'), 1)));
  content = sample.content();
  content.pages_size = 100;
  EXPECT_TRUE(absl::IsDataLoss(Volume().Add(content, DaxDeadline())));
  EXPECT_TRUE(absl::IsDeadlineExceeded(Volume().Add(DaxSample{"a", 2}.content(), DaxMedium::Clock::now())));
  EXPECT_EQ(FreeBlocks(), empty);
}

TEST_F(DaxVolumeTest, ScatteredRoom_IsUsedToTheLastBlock) {
  Format();
  const uint64_t empty = FreeBlocks();
  for (uint64_t i = 0; i < empty / 2; ++i) ASSERT_TRUE(Add(absl::StrCat("t", i), 1).ok()) << i;
  for (uint64_t i = 0; i < empty / 2; i += 2) ASSERT_TRUE(Remove(absl::StrCat("t", i)).ok());
  const uint64_t left = FreeBlocks();
  ASSERT_TRUE(Add("big", left - 1).ok());
  EXPECT_EQ(FreeBlocks(), 0u);
  EXPECT_GT(Entry("big").runs.size(), 3u);
  const DaxDirectory directory = *Volume().Read();
  for (const DaxEntry& entry : directory.entries)
    EXPECT_EQ(WhatIsWrong(medium_, Volume().geometry(), entry), "");
}

// The directory is as large as the most entries, and the most runs, need it to be.
TEST_F(DaxVolumeTest, Directory_IsNeverFullBeforeTheBlocksAre) {
  Format(400);
  uint64_t count = 0;
  while (FreeBlocks() > 0) ASSERT_TRUE(Add(absl::StrCat("t", count++), 0).ok());
  EXPECT_EQ(Volume().Read()->entries.size(), count);
  for (uint64_t i = 0; i < count; i += 2) ASSERT_TRUE(Remove(absl::StrCat("t", i)).ok());
  ASSERT_TRUE(Add("big", FreeBlocks() - 1).ok());
  EXPECT_EQ(Entry("big").runs.size(), (count + 1) / 2);
}

TEST_F(DaxVolumeTest, RemovedTemplate_KeepsItsBlocks_WhileItIsHeld) {
  Format();
  const uint64_t empty = FreeBlocks();
  ASSERT_TRUE(Add("a", 3).ok());
  ASSERT_TRUE(Add("b", 2).ok());
  const DaxEntry old = Entry("a");
  medium_.held_ = old.ranges(Volume().geometry());
  ASSERT_TRUE(Remove("a").ok());
  EXPECT_EQ(Volume().Space()->held, 4 * kSmallBlock);
  const absl::Status full = Add("c", empty - 3 - 1);
  EXPECT_TRUE(absl::IsResourceExhausted(full));
  EXPECT_THAT(full.message(),
              HasSubstr(absl::StrCat(4 * kSmallBlock, " of removed templates that are still in use")));
  ASSERT_TRUE(Add("c", empty - 3 - 4 - 1).ok());
  EXPECT_EQ(WhatIsWrong(medium_, Volume().geometry(), old), "");
  medium_.held_.clear();
  EXPECT_EQ(Volume().Space()->held, 0u);
  EXPECT_TRUE(Add("d", 3).ok());
}

TEST_F(DaxVolumeTest, Take_HoldsWhatItGives) {
  Format();
  ASSERT_TRUE(Add("a", 3).ok());
  const auto entry = Volume().Take("a", DaxDeadline());
  ASSERT_TRUE(entry.ok()) << entry.status();
  EXPECT_EQ(medium_.holds_, entry->ranges(Volume().geometry()));
  EXPECT_TRUE(absl::IsNotFound(Volume().Take("b", DaxDeadline()).status()));
}

// Between the look at the directory and the hold.
TEST_F(DaxVolumeTest, Take_SeesThatItWasRemovedMeanwhile) {
  Format();
  ASSERT_TRUE(Add("a", 3).ok());
  medium_.after_hold_ = [this] { ASSERT_TRUE(Remove("a").ok()); };
  EXPECT_TRUE(absl::IsNotFound(Volume().Take("a", DaxDeadline()).status()));
  // Another one with its name and in its place is not it.
  ASSERT_TRUE(Add("a", 3).ok());
  const uint64_t id = Entry("a").id;
  medium_.after_hold_ = [this] { ASSERT_TRUE(Remove("a").ok() && Add("a", 3).ok()); };
  const auto entry = Volume().Take("a", DaxDeadline());
  ASSERT_TRUE(entry.ok()) << entry.status();
  EXPECT_GT(entry->id, id);
}

TEST_F(DaxVolumeTest, Read_OfAnOldVolumeSaysThatItWasFormattedAnew) {
  Format();
  const DaxVolume volume = Volume();
  ASSERT_TRUE(FormatDax(&medium_, {.block = kSmallBlock, .force = true}, DaxDeadline()).ok());
  EXPECT_TRUE(absl::IsUnavailable(volume.Read().status()));
  EXPECT_THAT(volume.Read().status().message(), HasSubstr("was formatted meanwhile; open it again"));
}

TEST_F(DaxVolumeTest, Format_TouchesNothingThatIsThere_UnlessItIsTold) {
  Format();
  ASSERT_TRUE(Add("a", 3).ok());
  const std::vector<std::byte> before = medium_.memory_;
  const absl::Status pool = FormatDax(&medium_, {.block = kSmallBlock}, DaxDeadline());
  EXPECT_TRUE(absl::IsAlreadyExists(pool));
  EXPECT_THAT(pool.message(), HasSubstr("holds a pool of 1 templates; give --force if all of it may go"));
  EXPECT_EQ(medium_.memory_, before);
  medium_.held_ = Entry("a").ranges(Volume().geometry());
  const absl::Status used = FormatDax(&medium_, {.block = kSmallBlock, .force = true}, DaxDeadline());
  EXPECT_TRUE(absl::IsFailedPrecondition(used));
  EXPECT_THAT(used.message(), HasSubstr("templates of it are in use"));
  EXPECT_EQ(medium_.memory_, before);
  medium_.held_.clear();
  medium_.memory_.assign(64 * kSmallBlock, std::byte{0});
  medium_.memory_.back() = std::byte{1};
  const absl::Status foreign = FormatDax(&medium_, {.block = kSmallBlock}, DaxDeadline());
  EXPECT_TRUE(absl::IsAlreadyExists(foreign));
  EXPECT_THAT(foreign.message(), HasSubstr("is not empty"));
  EXPECT_TRUE(FormatDax(&medium_, {.block = kSmallBlock, .force = true}, DaxDeadline()).ok());
}

TEST_F(DaxVolumeTest, Format_RefusesWhatIsOfNoUse) {
  medium_.memory_.assign(3 * kSmallBlock, std::byte{0});
  const absl::Status small = FormatDax(&medium_, {.block = kSmallBlock}, DaxDeadline());
  EXPECT_TRUE(absl::IsInvalidArgument(small));
  EXPECT_THAT(small.message(), HasSubstr("too small: has 12288 bytes, needs 20480 at least"));
  EXPECT_TRUE(absl::IsInvalidArgument(FormatDax(&medium_, {.size = 1 << 20, .block = kSmallBlock}, DaxDeadline())));
  medium_.align_ = 1 << 30;
  const absl::Status coarse = FormatDax(&medium_, {}, DaxDeadline());
  EXPECT_TRUE(absl::IsFailedPrecondition(coarse));
  EXPECT_THAT(coarse.message(), HasSubstr("--align=2M"));
}

TEST_F(DaxVolumeTest, Open_SaysWhatItIsNot) {
  medium_.memory_.assign(64 * kSmallBlock, std::byte{0});
  EXPECT_TRUE(absl::IsNotFound(DaxVolume::Open(&medium_).status()));
  EXPECT_THAT(DaxVolume::Open(&medium_).status().message(),
              HasSubstr("is not formatted; moultctl pool format dax:/dev/dax9.9"));
  medium_.memory_[0] = std::byte{'x'};
  EXPECT_TRUE(absl::IsFailedPrecondition(DaxVolume::Open(&medium_).status()));
  EXPECT_THAT(DaxVolume::Open(&medium_).status().message(), HasSubstr("holds something that is no pool"));
  Format();
  const std::vector<std::byte> good = medium_.memory_;
  medium_.memory_[8] = std::byte{2};
  EXPECT_TRUE(absl::IsFailedPrecondition(DaxVolume::Open(&medium_).status()));
  EXPECT_THAT(DaxVolume::Open(&medium_).status().message(), HasSubstr("version 2, this library knows 1"));
  medium_.memory_ = good;
  medium_.memory_[20] ^= std::byte{1};
  EXPECT_TRUE(absl::IsDataLoss(DaxVolume::Open(&medium_).status()));
  medium_.memory_ = good;
  medium_.memory_.resize(16 * kSmallBlock);
  EXPECT_TRUE(absl::IsDataLoss(DaxVolume::Open(&medium_).status()));
  EXPECT_THAT(DaxVolume::Open(&medium_).status().message(),
              HasSubstr("was formatted with 131072 bytes, there are 65536"));
  medium_.memory_.resize(1);
  EXPECT_TRUE(absl::IsFailedPrecondition(DaxVolume::Open(&medium_).status()));
  medium_.memory_ = good;
  medium_.align_ = 2 << 20;
  EXPECT_THAT(DaxVolume::Open(&medium_).status().message(),
              HasSubstr("was formatted for an alignment of 4096"));
}

TEST_F(DaxVolumeTest, DamagedDirectory_IsNotBelieved) {
  Format();
  ASSERT_TRUE(Add("a", 3).ok());
  const auto geometry = Volume().geometry();
  medium_.memory_[geometry.directory_at(2) + 100] ^= std::byte{1};
  EXPECT_TRUE(absl::IsDataLoss(Volume().Read().status()));
  EXPECT_THAT(Volume().Read().status().message(), HasSubstr("directory: does not match its checksum"));
  EXPECT_TRUE(absl::IsDataLoss(Add("b", 1)));
}

// With a checksum that is right: what is in it must still make sense.
TEST_F(DaxVolumeTest, Directory_ThatLiesIsRefused) {
  const DaxGeometry geometry = *PlanDax(64 * kSmallBlock, kSmallBlock, 4096);
  const uint64_t first = geometry.first_block();
  DaxEntry entry{1, "a", "red", {}, 4096, 10, 10, {{first, 2}}};
  const struct {
    const char* what;
    std::function<void(DaxDirectory&)> change;
  } cases[] = {
      {"no name of a template", [](DaxDirectory& d) { d.entries[0].name = "../a"; }},
      {"needs 2 blocks, has 3", [](DaxDirectory& d) { d.entries[0].runs[0].count = 3; }},
      {"has blocks that there are not", [](DaxDirectory& d) { d.entries[0].runs[0].first = 0; }},
      {"has blocks that there are not", [](DaxDirectory& d) { d.entries[0].runs[0].first = 63; }},
      {"has blocks that there are not",
       [](DaxDirectory& d) {
         d.entries[0].runs.push_back({60, 0});
       }},
      {"sizes that no template has", [](DaxDirectory& d) { d.entries[0].pages_size = 4095; }},
      {"sizes that no template has", [](DaxDirectory& d) { d.entries[0].manifest_size = UINT64_MAX; }},
      {"is there twice", [](DaxDirectory& d) { d.entries.push_back(d.entries[0]); }},
      {"an id that was not given to it", [](DaxDirectory& d) { d.next_id = 1; }},
      {"has two owners",
       [](DaxDirectory& d) {
         d.entries.push_back(d.entries[0]);
         d.entries[1].name = "b";
         d.entries[1].id = 2;
         d.entries[1].runs[0].first += 1;
       }},
  };
  DaxDirectory good{5, 3, {entry}};
  ASSERT_TRUE(ParseDirectory(SerializeDirectory(good), 5, geometry).ok());
  EXPECT_TRUE(absl::IsDataLoss(ParseDirectory(SerializeDirectory(good), 6, geometry).status()));
  for (const auto& one : cases) {
    DaxDirectory bad = good;
    one.change(bad);
    const auto parsed = ParseDirectory(SerializeDirectory(bad), 5, geometry);
    EXPECT_TRUE(absl::IsDataLoss(parsed.status())) << one.what;
    EXPECT_THAT(parsed.status().message(), HasSubstr(one.what));
  }
  const std::vector<std::byte> bytes = SerializeDirectory(good);
  for (size_t size = 0; size < bytes.size(); ++size)
    EXPECT_FALSE(ParseDirectory(absl::MakeSpan(bytes).first(size), 5, geometry).ok()) << size;
}

TEST_F(DaxVolumeTest, Runs_AreChosenSoThatThereAreFew) {
  EXPECT_THAT(ChooseRuns({{10, 4}, {20, 2}, {30, 3}}, 3), ElementsAre(DaxRun{30, 3}));
  EXPECT_THAT(ChooseRuns({{10, 4}, {20, 2}, {30, 3}}, 2), ElementsAre(DaxRun{20, 2}));
  EXPECT_THAT(ChooseRuns({{10, 4}, {20, 2}, {30, 3}}, 8),
              ElementsAre(DaxRun{10, 4}, DaxRun{30, 3}, DaxRun{20, 1}));
  EXPECT_THAT(ChooseRuns({{10, 4}}, 5), IsEmpty());
  EXPECT_THAT(WithoutHeld({{10, 10}}, {{12 * 4096 + 1, 4096}, {19 * 4096, 4096}}, 4096),
              ElementsAre(DaxRun{10, 2}, DaxRun{14, 5}));
}

}  // namespace
}  // namespace moult::host::testing
