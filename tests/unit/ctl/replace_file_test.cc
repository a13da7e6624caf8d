// SPDX-License-Identifier: Apache-2.0
#include "replace_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace moult::ctl {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ReplaceFileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "moult-replace-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    dir_ = name;
  }
  void TearDown() override { fs::remove_all(dir_); }

  std::string Read(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  std::vector<std::string> Names() {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(dir_)) names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }

  fs::path dir_;
};

TEST_F(ReplaceFileTest, MakesAndReplaces) {
  ASSERT_TRUE(ReplaceFile(dir_ / "a", std::string("one\0two", 7)).ok());
  EXPECT_EQ(Read(dir_ / "a"), std::string("one\0two", 7));
  ASSERT_TRUE(ReplaceFile(dir_ / "a", "").ok());
  EXPECT_EQ(Read(dir_ / "a"), "");
  EXPECT_THAT(Names(), ElementsAre("a"));
}

TEST_F(ReplaceFileTest, FollowsALink) {
  std::ofstream(dir_ / "real") << "old";
  fs::create_symlink("real", dir_ / "link");
  ASSERT_TRUE(ReplaceFile(dir_ / "link", "new").ok());
  EXPECT_EQ(Read(dir_ / "real"), "new");
  EXPECT_TRUE(fs::is_symlink(dir_ / "link"));
}

TEST_F(ReplaceFileTest, NamesTheFile_WhenItCannotBeWritten) {
  const absl::Status status = ReplaceFile(dir_ / "none" / "a", "x");
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("write " + (dir_ / "none" / "a").string() + ": create: ENOENT"));
}

TEST_F(ReplaceFileTest, RefusesWhatIsNoRegularFile) {
  for (const std::string& path : {std::string("/dev/null"), dir_.string()}) {
    const absl::Status status = ReplaceFile(path, "x");
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), HasSubstr("write " + path + ": is no regular file"));
  }
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
}

TEST_F(ReplaceFileTest, LeavesTheOldOne_WhenThereIsNoRoom) {
  std::ofstream(dir_ / "a") << "old";
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{100, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  const absl::Status status = ReplaceFile(dir_ / "a", std::string(1000, 'x'));
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr((dir_ / "a").string() + ": write: EFBIG"));
  EXPECT_EQ(Read(dir_ / "a"), "old");
  EXPECT_THAT(Names(), ElementsAre("a"));
}

}  // namespace
}  // namespace moult::ctl
