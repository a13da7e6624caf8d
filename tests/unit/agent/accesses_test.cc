// SPDX-License-Identifier: Apache-2.0
#include "ledger/accesses.h"

#include <gmock/gmock.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>

#include "moult/base/page.h"

namespace moult::agent {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr uint64_t kPages = 512;

// A process with two mappings that are the neighbours of none; it touches page 5 of the first when it is told to.
class AccessesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    int told[2];
    ASSERT_EQ(pipe(go_), 0);
    ASSERT_EQ(pipe(told), 0);
    for (auto& at : at_) {
      at = static_cast<char*>(mmap(nullptr, kPages * kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
      ASSERT_NE(at, MAP_FAILED);
    }
    child_ = fork();
    ASSERT_GE(child_, 0);
    if (child_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      close(go_[1]);
      for (char* at : at_) std::fill(at, at + kPages * kPage, 1);
      char byte = 0;
      do {
        // What lies in a TLB is used without a mark; it goes with the protection of the entries.
        for (char* at : at_) {
          mprotect(at, kPages * kPage, PROT_NONE);
          mprotect(at, kPages * kPage, PROT_READ);
        }
        if (byte != 0) byte = *static_cast<volatile char*>(at_[0] + 5 * kPage);
        (void)!write(told[1], &byte, 1);
      } while (read(go_[0], &byte, 1) == 1);
      _exit(0);
    }
    told_ = told[0];
    char byte;
    ASSERT_EQ(read(told_, &byte, 1), 1);
  }
  void TearDown() override {
    kill(child_, SIGKILL);
    waitpid(child_, nullptr, 0);
    for (char* at : at_) munmap(at, kPages * kPage);
    for (const int fd : {go_[0], go_[1], told_}) close(fd);
  }
  void Touch() {
    char byte = 1;
    ASSERT_EQ(write(go_[1], &byte, 1), 1);
    ASSERT_EQ(read(told_, &byte, 1), 1);
  }
  // The pages of one of its mappings that count as touched.
  std::vector<uint64_t> Touched(const Accesses& accesses, size_t which) {
    AddressSpaces spaces;
    if (const absl::Status added = spaces.Add(child_, 0, &accesses); !added.ok()) {
      ADD_FAILURE() << added;
      return {};
    }
    const auto start = reinterpret_cast<uint64_t>(at_[which]);
    std::vector<uint64_t> pages;
    for (const Mapping& mapping : spaces.mappings()) {
      if (mapping.accessed && mapping.va >= start && mapping.va < start + kPages * kPage)
        pages.push_back((mapping.va - start) / kPage);
    }
    return pages;
  }

  char* at_[2] = {};
  int go_[2] = {-1, -1};
  int told_ = -1;
  pid_t child_ = -1;
};

TEST_F(AccessesTest, OfTheKernel_AMappingIsTouchedAsAWhole_UntilItIsForgotten) {
  const Accesses accesses(Accesses::Through::kKernel);
  EXPECT_EQ(accesses.source(), rpc::AccessSource::Mapping);
  AddressSpaces spaces;
  if (const absl::Status added = spaces.Add(child_, 0); absl::IsPermissionDenied(added)) GTEST_SKIP() << added;
  EXPECT_THAT(Touched(accesses, 0), SizeIs(kPages));
  EXPECT_THAT(Touched(accesses, 1), SizeIs(kPages));
  ASSERT_TRUE(accesses.Forget(child_).ok());
  EXPECT_THAT(Touched(accesses, 0), IsEmpty());
  EXPECT_THAT(Touched(accesses, 1), IsEmpty());
  Touch();
  EXPECT_THAT(Touched(accesses, 0), SizeIs(kPages));
  EXPECT_THAT(Touched(accesses, 1), IsEmpty());
}

TEST_F(AccessesTest, OfOneThatHasGone_IsNotFound) {
  const Accesses accesses(Accesses::Through::kKernel);
  kill(child_, SIGKILL);
  waitpid(child_, nullptr, 0);
  EXPECT_TRUE(absl::IsNotFound(accesses.Forget(child_))) << accesses.Forget(child_);
  EXPECT_TRUE(absl::IsNotFound(accesses.Look(child_, {})));
}

std::vector<Mapping> Pages(const std::vector<uint64_t>& pages) {
  std::vector<Mapping> mappings;
  for (const uint64_t page : pages) mappings.push_back({.frame = 1, .va = page * kPage});
  return mappings;
}

std::vector<std::pair<uint64_t, uint64_t>> Spans(const Asked& asked) {
  std::vector<std::pair<uint64_t, uint64_t>> spans;
  for (const moult_span& span : asked.spans) spans.emplace_back(span.va / kPage, span.length / kPage);
  return spans;
}

TEST(AskForTest, SpansGoOverSmallGapsAlone) {
  const Asked asked = AskFor(Pages({10, 11, 11, 13, 78, 144, 144, 100'000}));
  EXPECT_EQ(asked.pages, 8u);
  EXPECT_THAT(Spans(asked), ::testing::ElementsAre(std::pair(10, 69), std::pair(144, 1), std::pair(100'000, 1)));
}

TEST(AskForTest, NoMorePagesThanOneCallTakes) {
  std::vector<uint64_t> pages(MOULT_MAX_YOUNG + 10);
  std::generate(pages.begin(), pages.end(), [next = uint64_t{0}]() mutable { return next++; });
  EXPECT_EQ(AskFor(Pages(pages)).pages, size_t{MOULT_MAX_YOUNG});
  // Nor more spans; a gap counts as what it is.
  pages.resize(MOULT_MAX_RANGES + 10);
  std::generate(pages.begin(), pages.end(), [next = uint64_t{0}]() mutable { return next += 1000; });
  const Asked asked = AskFor(Pages(pages));
  EXPECT_EQ(asked.pages, size_t{MOULT_MAX_RANGES});
  EXPECT_THAT(asked.spans, SizeIs(MOULT_MAX_RANGES));
}

}  // namespace
}  // namespace moult::agent
