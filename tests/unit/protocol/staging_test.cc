// SPDX-License-Identifier: Apache-2.0
//
// What is left of a writer that is killed while it publishes, and who removes it.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "moult/base/unique_fd.h"
#include "moult/protocol/template_reader.h"
#include "moult/protocol/template_writer.h"
#include "sample_image.h"

namespace moult::image {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

// The next rename of this process kills it.
bool DieOnRename() {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat, 2, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat2, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
  };
  const sock_fprog filter = {std::size(program), program};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

class StagingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "moult-staging-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    dir_ = root_ / "template";
  }
  void TearDown() override { fs::remove_all(root_); }

  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(root_)) names.push_back(entry.path().filename());
    return names;
  }

  absl::Status WriteSample() const {
    auto writer = TemplateWriter::Create(dir_);
    if (!writer.ok()) return writer.status();
    std::vector<uint8_t> pages = sample::Pages();
    const iovec part = {pages.data(), pages.size()};
    const auto offset = (*writer)->AppendPages({&part, 1});
    if (!offset.ok()) return offset.status();
    return (*writer)->Commit(sample::Image(), sample::Manifest());
  }

  // A folder like that of a writer of this pid, with these files.
  fs::path MakeLeftOver(const std::string& name, std::initializer_list<const char*> files) const {
    fs::create_directory(root_ / name);
    for (const char* file : files) std::ofstream(root_ / name / file) << "x";
    return root_ / name;
  }

  fs::path root_;
  fs::path dir_;
};

// Of a process that has ended and was waited for.
pid_t DeadPid() {
  const pid_t child = fork();
  if (child == 0) _exit(0);
  EXPECT_EQ(waitpid(child, nullptr, 0), child);
  return child;
}

TEST_F(StagingTest, Writer_LeavesOnlyThePartialFolder_WhenKilledAtTheRename) {
  const pid_t child = fork();
  if (child == 0) {
    if (DieOnRename()) WriteSample().IgnoreError();
    _exit(1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS) << status;
  const std::string partial = absl::StrCat("template.partial-", child);
  ASSERT_THAT(Names(), ElementsAre(partial));
  EXPECT_TRUE(fs::exists(root_ / partial / "manifest"));
  EXPECT_EQ(TemplateReader::Open(dir_).status().code(), absl::StatusCode::kNotFound);

  EXPECT_TRUE(TemplateWriter::Create(dir_).ok());
  EXPECT_THAT(Names(), IsEmpty());
  ASSERT_EQ(WriteSample(), absl::OkStatus());
  EXPECT_THAT(Names(), ElementsAre("template"));
  EXPECT_TRUE(TemplateReader::Open(dir_).ok());
}

TEST_F(StagingTest, Writer_SweepsOnlyWhatDeadWritersOfItsTargetLeft) {
  const std::string dead = absl::StrCat(DeadPid());
  MakeLeftOver("template.partial-" + dead, {"pages", "image"});
  const std::vector<std::string> kept = {
      absl::StrCat("template.partial-", getppid()),  // it lives
      "other.partial-" + dead,
      "template.partial-" + dead + "-1",  // as the host's store names its own
      "template.partial-0" + dead,
      "template.partial-",
  };
  for (const std::string& name : kept) MakeLeftOver(name, {"pages"});
  EXPECT_TRUE(TemplateWriter::Create(dir_).ok());
  EXPECT_THAT(Names(), ::testing::UnorderedElementsAreArray(kept));
  for (const std::string& name : kept) EXPECT_TRUE(fs::exists(root_ / name / "pages")) << name;
}

TEST_F(StagingTest, Writer_SweepsNothing_WhenThereIsAnotherFileInIt) {
  const fs::path folder = MakeLeftOver(absl::StrCat("template.partial-", DeadPid()), {"pages", "mine"});
  EXPECT_TRUE(TemplateWriter::Create(dir_).ok());
  EXPECT_TRUE(fs::exists(folder / "pages"));
  EXPECT_TRUE(fs::exists(folder / "mine"));
}

TEST_F(StagingTest, Writer_FollowsNoLink_WhenItSweeps) {
  const fs::path real = MakeLeftOver("elsewhere", {"pages"});
  fs::create_directory_symlink(real, root_ / absl::StrCat("template.partial-", DeadPid()));
  EXPECT_TRUE(TemplateWriter::Create(dir_).ok());
  EXPECT_EQ(Names().size(), 2u);
  EXPECT_TRUE(fs::exists(real / "pages"));
}

TEST_F(StagingTest, Writer_SweepsOnlyOnceTheLockIsGone_WhenItsPidIsOfAnotherNamespace) {
  const std::string name = absl::StrCat("template.partial-", DeadPid());
  const fs::path folder = MakeLeftOver(name, {"pages"});
  {
    const UniqueFd writer(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    ASSERT_EQ(flock(writer.get(), LOCK_EX | LOCK_NB), 0);
    EXPECT_TRUE(TemplateWriter::Create(dir_).ok());
    EXPECT_THAT(Names(), ElementsAre(name));
  }
  EXPECT_TRUE(TemplateWriter::Create(dir_).ok());
  EXPECT_THAT(Names(), IsEmpty());
}

TEST_F(StagingTest, Writer_HoldsTheLock_WhileItsFolderIsThere) {
  auto writer = TemplateWriter::Create(dir_, {.nameless_files = false, .hash_in_background = false});
  ASSERT_TRUE(writer.ok()) << writer.status();
  const std::vector<std::string> names = Names();
  ASSERT_THAT(names, ElementsAre(absl::StrCat("template.partial-", getpid())));
  const UniqueFd other(open((root_ / names[0]).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  EXPECT_EQ(flock(other.get(), LOCK_EX | LOCK_NB), -1);
  EXPECT_EQ(errno, EWOULDBLOCK);
}

}  // namespace
}  // namespace moult::image
