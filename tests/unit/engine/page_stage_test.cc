// SPDX-License-Identifier: Apache-2.0
//
// The threads of a dump: pages of a stopped process are copied by two, written by one and hashed by a third.
// ThreadSanitizer sees them here.
#include "image/page_stage.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "../protocol/sample_image.h"
#include "moult/protocol/template_reader.h"
#include "ptrace/tracee.h"

namespace moult::engine {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kPage = image::kPageSize;
constexpr uint64_t kSize = 12u << 20;  // each call has copies enough for a helper
constexpr uint64_t kFileSize = 1u << 20;

// No two pages alike; every seventh is zero.
void Fill(std::byte* to, uint64_t size) {
  for (uint64_t at = 0; at < size; at += kPage) {
    const uint64_t page = at / kPage;
    if (page % 7 == 6) continue;
    std::memset(to + at, static_cast<int>(page % 251 + 1), kPage);
    std::memcpy(to + at, &page, sizeof(page));
  }
}

// What the runs hold is what is there, and what they leave out is zero.
void ExpectContent(const image::TemplateReader& reader, const std::vector<image::PageRun>& runs,
                   uint64_t base, const std::byte* memory, uint64_t size) {
  std::vector<std::byte> seen(size);
  for (const image::PageRun& run : runs) {
    ASSERT_LE(run.start() - base + run.length(), size);
    ASSERT_TRUE(
        reader.ReadPages(run.pages_offset(), absl::MakeSpan(seen.data() + (run.start() - base), run.length()))
            .ok());
  }
  EXPECT_EQ(std::memcmp(seen.data(), memory, size), 0);
}

class PageStageTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "moult-page-stage-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    void* memory = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    memory_ = static_cast<std::byte*>(memory);
    Fill(memory_, kSize);
    child_ = fork();
    ASSERT_GE(child_, 0);
    if (child_ == 0) {
      for (;;) pause();
    }
  }
  void TearDown() override {
    kill(child_, SIGKILL);
    waitpid(child_, nullptr, 0);
    munmap(memory_, kSize);
    fs::remove_all(root_);
  }

  uint64_t address() const { return reinterpret_cast<uint64_t>(memory_); }

  fs::path root_;
  std::byte* memory_ = nullptr;
  pid_t child_ = -1;
};

TEST_F(PageStageTest, Template_HoldsAllPages_WhenSeveralThreadsCopyAndHash) {
  const UniqueFd file(memfd_create("content", MFD_CLOEXEC));
  std::vector<std::byte> content(kFileSize);
  Fill(content.data(), kFileSize);
  ASSERT_EQ(pwrite(file.get(), content.data(), kFileSize, 0), static_cast<ssize_t>(kFileSize));
  auto tracee = ptrace::Tracee::SeizeAll(child_);
  ASSERT_TRUE(tracee.ok()) << tracee.status();
  auto writer = image::TemplateWriter::Create(root_ / "template");
  ASSERT_TRUE(writer.ok()) << writer.status();
  std::vector<image::PageRun> runs, file_runs;
  {
    auto stage = PageStage::Create(**writer, kSize);
    ASSERT_TRUE(stage.ok()) << stage.status();
    // In two calls, since a call waits for the copies of the one before, and a file while they go on.
    const AddressRange first[] = {{address(), kSize / 4}, {address() + kSize / 4, kSize / 4}};
    const AddressRange second[] = {{address() + kSize / 2, kSize / 2}};
    ASSERT_TRUE((*stage)->StageRemote(**tracee, first, false, &runs).ok());
    ASSERT_TRUE((*stage)->StageRemote(**tracee, second, false, &runs).ok());
    ASSERT_TRUE((*stage)->StageFile(file.get(), kFileSize, &file_runs).ok());
    ASSERT_EQ((*stage)->AwaitCopies(), absl::OkStatus());
    EXPECT_EQ((*tracee)->Detach(), absl::OkStatus());
    ASSERT_EQ((*stage)->Finish(), absl::OkStatus());
    EXPECT_EQ((*stage)->staged_bytes(), kSize + kFileSize);
  }
  image::ProcessImageT image = image::sample::Image();
  image.objects[0]->size = kFileSize;
  image.objects[0]->runs = file_runs;
  // Where this process has its memory the sample may have its own.
  constexpr uint64_t kBase = 0x10000000;
  for (image::PageRun& run : runs)
    run = image::PageRun(run.start() - address() + kBase, run.length(), run.pages_offset());
  image::MemoryMapT& map = *image.processes[0]->memory;
  image::sample::AddVma(&map, kBase, kBase + kSize, 3, image::VmaKind::Anonymous);
  std::rotate(map.vmas.begin() + 3, map.vmas.end() - 1, map.vmas.end());
  map.runs = runs;
  ASSERT_EQ((*writer)->Commit(image, image::sample::Manifest()), absl::OkStatus());
  auto reader = image::TemplateReader::Open(root_ / "template");
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ((*reader)->VerifyPages(), absl::OkStatus());
  ExpectContent(**reader, runs, kBase, memory_, kSize);
  ExpectContent(**reader, file_runs, 0, content.data(), kFileSize);
}

TEST_F(PageStageTest, Copies_SayThatTheProcessEnded_WhenItIsKilledMeanwhile) {
  auto tracee = ptrace::Tracee::SeizeAll(child_);
  ASSERT_TRUE(tracee.ok()) << tracee.status();
  auto writer = image::TemplateWriter::Create(root_ / "template");
  ASSERT_TRUE(writer.ok()) << writer.status();
  auto stage = PageStage::Create(**writer, kSize);
  ASSERT_TRUE(stage.ok()) << stage.status();
  ASSERT_EQ((*tracee)->Kill(), absl::OkStatus());
  std::vector<image::PageRun> runs;
  const AddressRange all[] = {{address(), kSize}};
  ASSERT_TRUE((*stage)->StageRemote(**tracee, all, false, &runs).ok());
  const absl::Status status = (*stage)->AwaitCopies();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(status.message(), absl::StrCat("process ", child_, " ended meanwhile"));
}

// The destructor ends the helper when nobody waits for the copies.
TEST_F(PageStageTest, Stage_EndsItsThread_WhenItIsGivenUp) {
  auto tracee = ptrace::Tracee::SeizeAll(child_);
  ASSERT_TRUE(tracee.ok()) << tracee.status();
  auto writer = image::TemplateWriter::Create(root_ / "template");
  ASSERT_TRUE(writer.ok()) << writer.status();
  auto stage = PageStage::Create(**writer, kSize);
  ASSERT_TRUE(stage.ok()) << stage.status();
  std::vector<image::PageRun> runs;
  const AddressRange all[] = {{address(), kSize}};
  ASSERT_TRUE((*stage)->StageRemote(**tracee, all, false, &runs).ok());
  stage->reset();
  EXPECT_TRUE(runs.empty());
  writer->reset();
  EXPECT_TRUE(fs::is_empty(root_));
}

}  // namespace
}  // namespace moult::engine
