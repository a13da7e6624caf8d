// SPDX-License-Identifier: Apache-2.0
//
// One copy of a template's pages for all processes of a host, whoever of them ends.
#include "pool/file/sealed_pages.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <csignal>
#include <fstream>
#include <vector>

#include "host_test.h"
#include "moult/protocol/template_writer.h"

namespace moult::host::testing {
namespace {

constexpr char kDigest[] = "0123abcd";

// What a process has after Obtain().
struct Copy {
  bool obtained = false;
  bool right = false;  // its content and its seals
  dev_t device = 0;
  ino_t inode = 0;
  bool SameFileAs(const Copy& other) const { return device == other.device && inode == other.inode; }
};

Copy Look(const absl::StatusOr<std::shared_ptr<const SealedPages>>& pages) {
  Copy copy;
  if (!pages.ok() || *pages == nullptr) return copy;
  copy.obtained = true;
  const int fd = (*pages)->fd();
  std::vector<uint8_t> content(sample::kPagesSize + 1);
  const ssize_t read = pread(fd, content.data(), content.size(), 0);
  content.resize(sample::kPagesSize);
  const int seals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
  copy.right = read == static_cast<ssize_t>(sample::kPagesSize) && content == sample::Pages() &&
               fcntl(fd, F_GET_SEALS) == seals;
  struct stat info {};
  if (fstat(fd, &info) != 0) return copy;
  copy.device = info.st_dev;
  copy.inode = info.st_ino;
  return copy;
}

class SealedPagesTest : public HostTest {
 protected:
  void SetUp() override {
    HostTest::SetUp();
    auto writer = image::TemplateWriter::Create(root_ + "/dump");
    ASSERT_TRUE(writer.ok()) << writer.status();
    std::vector<uint8_t> pages = sample::Pages();
    const struct iovec part = {pages.data(), pages.size()};
    ASSERT_TRUE((*writer)->AppendPages({&part, 1}).ok());
    ASSERT_TRUE((*writer)->Commit(sample::Image(), sample::Manifest()).ok());
  }
  void TearDown() override {
    while (!children_.empty()) End(children_.back(), SIGKILL);
    HostTest::TearDown();
  }
  absl::StatusOr<std::shared_ptr<const SealedPages>> Obtain() const {
    auto reader = image::TemplateReader::Open(root_ + "/dump");
    if (!reader.ok()) return reader.status();
    return SealedPages::Obtain(store_path_, kDigest, **reader);
  }
  // A process that obtains the pages and keeps them until it is ended; `copy` is what it saw.
  pid_t Holder(Copy* copy) {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    const pid_t child = fork();
    if (child == 0) {
      const auto pages = Obtain();
      const Copy seen = Look(pages);
      (void)!write(ends[1], &seen, sizeof(seen));
      for (;;) pause();
    }
    children_.push_back(child);
    close(ends[1]);
    EXPECT_EQ(read(ends[0], copy, sizeof(*copy)), static_cast<ssize_t>(sizeof(*copy)));
    close(ends[0]);
    return child;
  }
  void End(pid_t child, int signal) {
    kill(child, signal);
    EXPECT_EQ(waitpid(child, nullptr, 0), child);
    std::erase(children_, child);
  }
  std::string Note() const { return store_path_ + "/.sealed-" + kDigest; }

  std::vector<pid_t> children_;
};

TEST_F(SealedPagesTest, Processes_HaveOneCopy) {
  Copy first, second;
  Holder(&first);
  Holder(&second);
  EXPECT_TRUE(first.obtained && first.right);
  EXPECT_TRUE(second.obtained && second.right);
  EXPECT_TRUE(first.SameFileAs(second));
  const auto mine = Obtain();
  const Copy third = Look(mine);
  EXPECT_TRUE(third.right) << mine.status();
  EXPECT_TRUE(third.SameFileAs(first));
}

TEST_F(SealedPagesTest, Copy_OutlivesWhoMadeIt_WhileAnotherHasIt) {
  Copy first, second;
  const pid_t maker = Holder(&first);
  Holder(&second);
  End(maker, SIGKILL);
  const auto mine = Obtain();
  const Copy third = Look(mine);
  EXPECT_TRUE(third.right) << mine.status();
  EXPECT_TRUE(third.SameFileAs(second));
  EXPECT_TRUE(third.SameFileAs(first));
}

TEST_F(SealedPagesTest, Copy_IsMadeAgain_WhenAllWhoHadItWereKilled) {
  Copy first;
  End(Holder(&first), SIGKILL);
  ASSERT_TRUE(std::filesystem::exists(Note())) << "a process that is killed leaves its note";
  Copy second;
  Holder(&second);
  EXPECT_TRUE(second.right);
  const auto mine = Obtain();
  EXPECT_TRUE(Look(mine).SameFileAs(second)) << mine.status();
}

TEST_F(SealedPagesTest, Note_GoesWithTheLastHolder) {
  {
    const auto mine = Obtain();
    ASSERT_TRUE(mine.ok() && *mine != nullptr) << mine.status();
    EXPECT_TRUE(std::filesystem::exists(Note()));
  }
  EXPECT_FALSE(std::filesystem::exists(Note()));
}

TEST_F(SealedPagesTest, DescriptorOfAnotherContent_IsNotTaken) {
  // As of a process that has closed its copy, and has something else by that number. It inherits this one.
  const UniqueFd other(memfd_create("other", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(other.get(), sample::kPagesSize), 0);
  ASSERT_EQ(fcntl(other.get(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), 0);
  Copy first;
  const pid_t holder = Holder(&first);
  std::ifstream in(Note());
  pid_t pid = 0;
  uint64_t start = 0;
  in >> pid >> start;
  ASSERT_EQ(pid, holder);
  std::ofstream(Note()) << holder << " " << start << " " << other.get() << "\n";
  const auto mine = Obtain();
  const Copy copy = Look(mine);
  EXPECT_TRUE(copy.right) << mine.status();
  EXPECT_FALSE(copy.SameFileAs(first)) << "the note named another descriptor";
}

}  // namespace
}  // namespace moult::host::testing
