// SPDX-License-Identifier: Apache-2.0
#include "proc/read.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "moult/base/unique_fd.h"

namespace moult::proc {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ReadTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/moult-read-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    dir_ = pattern;
  }
  void TearDown() override {
    for (const std::string& name : made_) (void)unlink(name.c_str());
    (void)rmdir(dir_.c_str());
  }
  std::string Make(const std::string& name, const std::string& content) {
    made_.push_back(dir_ + "/" + name);
    std::ofstream(made_.back(), std::ios::binary) << content;
    return made_.back();
  }

  std::string dir_;
  std::vector<std::string> made_;
};

TEST_F(ReadTest, ReadFile_GivesAllBytes_WhenSizeIsAroundTheBuffer) {
  for (const size_t size :
       {size_t{0}, size_t{1}, size_t{65535}, size_t{65536}, size_t{65537}, size_t{3000000}}) {
    std::string content(size, '\0');
    for (size_t i = 0; i < size; ++i) content[i] = static_cast<char>(i * 7 % 251);
    const auto got = ReadFile(Make("f", content));
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_TRUE(*got == content) << size;
  }
}

TEST_F(ReadTest, ReadFile_NamesThePath_WhenItIsMissing) {
  const auto got = ReadFile(dir_ + "/none");
  ASSERT_FALSE(got.ok());
  EXPECT_EQ(got.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(got.status().message()), HasSubstr("open " + dir_ + "/none: ENOENT"));
}

TEST_F(ReadTest, ReadFile_NamesThePath_WhenItIsADirectory) {
  const auto got = ReadFile(dir_);
  ASSERT_FALSE(got.ok());
  EXPECT_THAT(std::string(got.status().message()), HasSubstr("read " + dir_ + ": EISDIR"));
}

TEST_F(ReadTest, ReadFileAt_ReadsRelative_WhenDirectoryIsOpen) {
  Make("x", "hello");
  const UniqueFd dir(open(dir_.c_str(), O_RDONLY | O_DIRECTORY));
  EXPECT_EQ(*ReadFileAt(dir.get(), "x"), "hello");
  const auto got = ReadFileAt(dir.get(), "y");
  EXPECT_THAT(std::string(got.status().message()),
              HasSubstr(absl::StrCat("open fd ", dir.get(), "/y: ENOENT")));
}

TEST_F(ReadTest, ReadFileAt_IsNotFound_WhenTheProcessHasGone) {
  const pid_t child = fork();
  if (child == 0) {
    for (;;) pause();
  }
  ASSERT_GT(child, 0);
  const UniqueFd dir(open(absl::StrCat("/proc/", child).c_str(), O_RDONLY | O_DIRECTORY));
  ASSERT_TRUE(dir.valid());
  EXPECT_TRUE(ReadFileAt(dir.get(), "status").ok());
  ASSERT_EQ(kill(child, SIGKILL), 0);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  EXPECT_EQ(ReadFileAt(dir.get(), "status").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ListNumeric(dir.get()).status().code(), absl::StatusCode::kNotFound);
}

// An epoll set of many shows more in its one record than a read takes.
TEST_F(ReadTest, ReadRecordAt_ReadsItAll_WhateverItsSize) {
  const UniqueFd infos(open("/proc/self/fdinfo", O_RDONLY | O_DIRECTORY));
  const UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  const std::string name = absl::StrCat(epoll.get());
  const auto empty = ReadRecordAt(infos.get(), name.c_str());
  ASSERT_TRUE(empty.ok()) << empty.status();
  EXPECT_EQ(*empty, *ReadFileAt(infos.get(), name.c_str()));
  std::vector<UniqueFd> watched;
  for (int i = 0; i < 900; ++i) {
    watched.emplace_back(eventfd(0, EFD_CLOEXEC));
    epoll_event event{};
    ASSERT_EQ(epoll_ctl(epoll.get(), EPOLL_CTL_ADD, watched.back().get(), &event), 0) << i;
  }
  const auto full = ReadRecordAt(infos.get(), name.c_str());
  ASSERT_TRUE(full.ok()) << full.status();
  EXPECT_GT(full->size(), 64u << 10);
  EXPECT_EQ(*full, *ReadFileAt(infos.get(), name.c_str()));
}

TEST_F(ReadTest, ReadLink_GivesTheTarget_WhenItHoldsAnyByte) {
  const std::string target = "a\nb \x01\xff" + std::string(3000, 'x');
  const std::string link = dir_ + "/l";
  made_.push_back(link);
  ASSERT_EQ(symlink(target.c_str(), link.c_str()), 0);
  EXPECT_EQ(*ReadLink(link), target);
  const UniqueFd dir(open(dir_.c_str(), O_RDONLY | O_DIRECTORY));
  EXPECT_EQ(*ReadLinkAt(dir.get(), "l"), target);
  const auto got = ReadLink(dir_);
  EXPECT_THAT(std::string(got.status().message()), HasSubstr("readlink " + dir_ + ": EINVAL"));
}

TEST_F(ReadTest, ListNumeric_IsSortedAndNumericOnly_WhenNamesAreMixed) {
  for (const char* name : {"10", "9", "100", "x1", "1x", "-3", "99999999999", "0"}) Make(name, "");
  EXPECT_THAT(*ListNumeric(dir_), ElementsAre(0, 9, 10, 100));
  const UniqueFd dir(open(dir_.c_str(), O_RDONLY | O_DIRECTORY));
  EXPECT_THAT(*ListNumeric(dir.get()), ElementsAre(0, 9, 10, 100));
  EXPECT_THAT(*ListNumeric(dir.get()), ElementsAre(0, 9, 10, 100));
}

TEST_F(ReadTest, ListNumeric_FindsThisThread_WhenReadingTask) {
  EXPECT_THAT(*ListNumeric("/proc/self/task"), Contains(gettid()));
  EXPECT_EQ(ListNumeric("/proc/self/none").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace moult::proc
