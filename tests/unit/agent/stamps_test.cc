// SPDX-License-Identifier: Apache-2.0
#include "ledger/stamps.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>

#include "moult/base/page.h"

namespace moult::agent {
namespace {

using rpc::Segment;
using ::testing::HasSubstr;

constexpr pid_t kPid = 70;
constexpr uint64_t kFrom = 0x10000000;

// A heap, of which these pages are there.
AddressSpaces Heap(const std::vector<uint64_t>& pages, bool file_or_shared = false) {
  std::vector<Mapping> mappings;
  for (const uint64_t page : pages) mappings.push_back({900 - page, kFrom + page * kPage, 0, file_or_shared});
  return AddressSpaces({{0, kFrom, 0, 0, 3}}, std::move(mappings));
}

Segment Of(const Stamps& stamps, uint64_t page) { return stamps.Of(kPid, kFrom + page * kPage); }

TEST(StampsTest, PagesAreOfTheSegmentThatTheyWereFirstHeldIn) {
  Stamps stamps;
  stamps.Add(kPid, Segment::Runtime, Heap({1, 2, 3, 7}));
  stamps.Add(kPid, Segment::Init, Heap({0, 2, 3, 4, 5, 7, 8}));
  const Segment wanted[] = {Segment::Init, Segment::Runtime, Segment::Runtime, Segment::Runtime, Segment::Init,
                            Segment::Init, Segment::Exec,    Segment::Runtime, Segment::Init,    Segment::Exec};
  for (uint64_t page = 0; page < std::size(wanted); ++page) EXPECT_EQ(Of(stamps, page), wanted[page]) << page;
  EXPECT_EQ(stamps.Of(kPid + 1, kFrom + kPage), Segment::Exec);
  EXPECT_EQ(stamps.Of(kPid, UINT64_MAX), Segment::Exec);
}

TEST(StampsTest, ComeBackFromTheirText) {
  Stamps stamps;
  stamps.Add(kPid, Segment::Runtime, Heap({1, 2}));
  stamps.Add(kPid, Segment::Init, Heap({4}));
  stamps.Add(kPid + 1, Segment::Init, Heap({9}));
  const auto again = Stamps::Parse(stamps.Format());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->Format(), stamps.Format());
  EXPECT_EQ(Of(*again, 2), Segment::Runtime);
  EXPECT_EQ(Of(*again, 4), Segment::Init);
}

TEST(StampsTest, DamagedTextIsRefused) {
  for (const char* text : {"70 1 1000", "70 1 1000 2000 3", "x 1 1000 2000", "0 1 1000 2000", "70 0 1000 2000",
                           "70 4 1000 2000", "70 1 2000 2000", "70 1 g 2000", "70 1 1000 3000\n70 2 2000 4000"}) {
    const auto stamps = Stamps::Parse(text);
    EXPECT_TRUE(absl::IsDataLoss(stamps.status())) << text;
    EXPECT_THAT(stamps.status().message(), HasSubstr("stamps: ")) << text;
  }
}

TEST(StampsTest, OfThisProcess_AreOfWhatItHoldsItself) {
  const auto map = [](int flags, int fd) {
    return static_cast<volatile char*>(mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, flags, fd, 0));
  };
  const int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  volatile char* const own = map(MAP_PRIVATE | MAP_ANONYMOUS, -1);
  volatile char* const shared = map(MAP_SHARED | MAP_ANONYMOUS, -1);
  volatile char* const copied = map(MAP_PRIVATE, file);
  for (volatile char* at : {own, shared, copied}) *at = 1;
  EXPECT_NE(copied[kPage], 1);
  Stamps stamps;
  ASSERT_TRUE(stamps.Add(getpid(), Segment::Runtime).ok());
  const auto of = [&](const volatile char* at) { return stamps.Of(getpid(), reinterpret_cast<uint64_t>(at)); };
  EXPECT_EQ(of(own), Segment::Runtime);
  EXPECT_EQ(of(own + kPage), Segment::Exec);
  EXPECT_EQ(of(shared), Segment::Runtime);
  EXPECT_EQ(of(copied), Segment::Runtime);
  EXPECT_EQ(of(copied + kPage), Segment::Exec) << "a file's page that it only read";
  for (volatile char* at : {own, shared, copied}) munmap(const_cast<char*>(at), 2 * kPage);
  close(file);
}

TEST(StampsTest, FolderWithoutAny_IsNoError) {
  const std::string folder = ::testing::TempDir() + "stamps";
  std::filesystem::create_directory(folder);
  Stamps stamps;
  stamps.Add(kPid, Segment::Init, Heap({1}));
  std::filesystem::remove(folder + "/stamps");
  const auto none = Stamps::Read(folder);
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_EQ(Of(*none, 1), Segment::Exec);
  ASSERT_TRUE(stamps.Save(folder).ok());
  const auto saved = Stamps::Read(folder);
  ASSERT_TRUE(saved.ok()) << saved.status();
  EXPECT_EQ(Of(*saved, 1), Segment::Init);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace moult::agent
