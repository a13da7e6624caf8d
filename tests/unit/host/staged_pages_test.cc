// SPDX-License-Identifier: Apache-2.0
#include "session/staged_pages.h"

#include "few_maps.h"
#include "host_test.h"
#include "moult/protocol/template_writer.h"

namespace moult::host::testing {
namespace {

// The sample's pages, some of them zero; what a template holds that was made of them by way of StagedPages.
class StagedPagesTest : public HostTest {
 protected:
  void SetUp() override {
    HostTest::SetUp();
    for (const uint64_t i : {2u, 3u, 40u}) std::memset(&content_[i * kPageBytes], 0, kPageBytes);
    PagePlan plan(sample::Image(), content_.size());
    for (uint64_t at = 0; at < content_.size(); at += kPageBytes) {
      const uint8_t* page = &content_[at];
      if (plan.Take(reinterpret_cast<const std::byte*>(page)))
        kept_.insert(kept_.end(), page, page + kPageBytes);
    }
    ASSERT_LT(kept_.size(), content_.size());
  }
  std::vector<uint8_t> MakeTemplate(uint64_t most) {
    auto writer = image::TemplateWriter::Create(root_ + "/made");
    EXPECT_TRUE(writer.ok()) << writer.status();
    auto image = sample::Image();
    PagePlan plan(image, content_.size());
    std::vector<uint8_t> guest = content_;
    StagedPages staged(writer->get(), most);
    while (staged.Prepare()) {
    }
    const auto memory = absl::MakeConstSpan(reinterpret_cast<const std::byte*>(guest.data()), guest.size());
    const size_t first = 5 * kPageBytes;
    EXPECT_TRUE(staged.Take(memory.first(first), &plan).ok());
    EXPECT_TRUE(staged.Take(memory.subspan(first), &plan).ok());
    guest.assign(guest.size(), 0xee);  // The function runs on.
    EXPECT_TRUE(staged.Write().ok());
    plan.Rewrite(&image);
    EXPECT_TRUE((*writer)->Commit(image, sample::Manifest()).ok());
    auto reader = image::TemplateReader::Open(root_ + "/made");
    EXPECT_TRUE(reader.ok()) << reader.status();
    std::vector<uint8_t> pages((*reader)->manifest().pages->size);
    EXPECT_TRUE((*reader)->ReadPages(0, {reinterpret_cast<std::byte*>(pages.data()), pages.size()}).ok());
    return pages;
  }

  std::vector<uint8_t> content_ = sample::Pages();
  std::vector<uint8_t> kept_;
};

TEST_F(StagedPagesTest, Pages_AreAsTheyWere_WhenTheGuestRunsOnBeforeTheyAreWritten) {
  EXPECT_EQ(MakeTemplate(StagedPages::kMost), kept_);
}

TEST_F(StagedPagesTest, Pages_AreWrittenInOrder_WhenThereAreMoreThanFit) {
  EXPECT_EQ(MakeTemplate(3 * kPageBytes), kept_);
}

TEST_F(StagedPagesTest, Take_SaysWhatToDo_WhenThisProcessIsOutOfMappings) {
  if (moult::testing::kIsSanitized) GTEST_SKIP() << "this sanitizer's allocator ends a process without mappings";
  auto writer = image::TemplateWriter::Create(root_ + "/made");
  ASSERT_TRUE(writer.ok()) << writer.status();
  PagePlan plan(sample::Image(), content_.size());
  const moult::testing::FewMaps none(0);
  if (!none.full()) GTEST_SKIP() << "vm.max_map_count is too high to be reached here";
  StagedPages staged(writer->get());
  EXPECT_FALSE(staged.Prepare());
  const absl::Status taken = staged.Take({reinterpret_cast<const std::byte*>(content_.data()), content_.size()}, &plan);
  EXPECT_EQ(taken.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(taken.message()), ::testing::HasSubstr("mmap: ENOMEM; this process has too many mappings, raise vm.max_map_count"));
}

}  // namespace
}  // namespace moult::host::testing
