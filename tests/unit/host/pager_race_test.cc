// SPDX-License-Identifier: Apache-2.0
//
// Everything at once: that nothing is lost, whoever touches what while pages go and come.
#include <barrier>

#include "pager_fixture.h"

namespace moult::host::testing {
namespace {

class PagerRace : public PagerTest {};
INSTANTIATE_TEST_SUITE_P(Kinds, PagerRace, ::testing::Values(Kind::kMemfd, Kind::kAnonymous), KindName);

TEST_P(PagerRace, FaultStorm_OfEightThreads_FindsEveryPageWhole) {
  constexpr uint64_t kPages = (64 << 20) / kPage;
  Start(kPages);
  FillRam();
  Offload(Scattered(0, kPages));
  std::atomic<uint64_t> broken{0};
  std::barrier start(8);
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      start.arrive_and_wait();
      // Pairs take the same pages in the same order, and pairs of pairs overlap.
      for (uint64_t i = 0; i < kPages / 2; ++i) {
        const uint64_t page = (i * 7919 + (t / 2) * kPages / 4) % kPages;
        if (!PageIsWhole(page)) ++broken;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(broken, 0u);
  ExpectWhole(0, kPages);
  AwaitPool(0);
}

// Each thread counts up in pages of its own. A count that goes back, or differs between the ends of the page,
// is a write that was lost.
TEST_P(PagerRace, Writers_LoseNothing_WhileTheirPagesGoAndCome) {
  constexpr uint64_t kPages = 192;
  constexpr unsigned kWriters = 3;
  constexpr uint64_t kLast = kPage / 8 - 1;
  Start(kPages);
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> lost{0};
  std::vector<uint64_t> counts(kPages);
  std::vector<std::thread> writers;
  for (unsigned t = 0; t < kWriters; ++t) {
    writers.emplace_back([&, t] {
      std::mt19937 random(t);
      while (!stop) {
        const uint64_t page = random() % (kPages / kWriters) * kWriters + t;
        auto* const words = reinterpret_cast<uint64_t*>(Page(page));
        if (__atomic_load_n(words, __ATOMIC_RELAXED) != counts[page] ||
            __atomic_load_n(words + kLast, __ATOMIC_RELAXED) != counts[page]) {
          ++lost;
          return;
        }
        ++counts[page];
        __atomic_store_n(words, counts[page], __ATOMIC_RELAXED);
        __atomic_store_n(words + kLast, counts[page], __ATOMIC_RELAXED);
      }
    });
  }
  OffloadResult sum;
  for (unsigned round = 0; round < 90; ++round) {
    const OffloadResult result = Offload(Scattered(0, kPages));
    sum.moved_bytes += result.moved_bytes;
    sum.stayed_bytes += result.stayed_bytes;
    if (round % 3 == 1) {
      EXPECT_TRUE(pager_->Recall(kOwner, Prefetch::kAll).ok());
    } else if (round % 3 == 2) {
      EXPECT_TRUE(pager_->Populate(Range(0, kPages)).ok());
    }
  }
  stop = true;
  for (std::thread& writer : writers) writer.join();
  EXPECT_EQ(lost, 0u);
  EXPECT_GT(sum.moved_bytes, 0u);
  ASSERT_TRUE(pager_->RecallAll().ok());
  for (uint64_t page = 0; page < kPages; ++page) {
    ASSERT_EQ(Word(page), counts[page]);
    ASSERT_EQ(Word(page, kLast), counts[page]);
  }
  AwaitPool(0);
}

// Where there was no page at all when it was protected.
TEST_P(PagerRace, Writers_LoseNothing_OnPagesThatWereHoles) {
  constexpr uint64_t kPages = 256;
  Start(kPages);
  for (int round = 0; round < 12; ++round) {
    ASSERT_TRUE(memory_->Release(Range(0, kPages)).ok());
    std::vector<uint64_t> counts(kPages);
    std::atomic<bool> stop{false};
    std::thread writer([&] {
      std::mt19937 random(static_cast<unsigned>(round));
      while (!stop) {
        const uint64_t page = random() % kPages;
        __atomic_store_n(reinterpret_cast<uint64_t*>(Page(page)), ++counts[page], __ATOMIC_RELAXED);
      }
    });
    Offload(Scattered(0, kPages));
    Offload(Straight(0, kPages));
    stop = true;
    writer.join();
    ASSERT_TRUE(pager_->RecallAll().ok());
    for (uint64_t page = 0; page < kPages; ++page) ASSERT_EQ(Word(page), counts[page]) << page;
  }
}

// Two functions whose pages share chunks: one goes out while the other comes back.
TEST_P(PagerRace, OffloadsAndRecalls_OfSeveralOwners_DoNotMix) {
  constexpr uint64_t kPages = 1024;
  Start(kPages);
  FillRam();
  std::vector<std::thread> threads;
  for (uint64_t owner = 0; owner < 4; ++owner) {
    threads.emplace_back([&, owner] {
      std::vector<OffloadRun> runs;
      for (uint64_t page = owner; page < kPages; page += 4)
        runs.push_back({Range(page), kVa + page * kPage, 1});
      for (int round = 0; round < 6; ++round) {
        EXPECT_TRUE(pager_->Offload(owner, runs).ok());
        const Prefetch prefetch = round % 2 == 0 ? Prefetch::kAll : Prefetch::kNone;
        EXPECT_TRUE(pager_->Recall(owner, prefetch).ok());
        for (uint64_t page = owner; page < kPages; page += 4) {
          if (!PageIsWhole(page)) ADD_FAILURE() << page;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_TRUE(pager_->RecallAll().ok());
  ExpectWhole(0, kPages);
  AwaitPool(0);
}

// The same pages in two calls: each has one owner in the end, and its content.
TEST_P(PagerRace, TwoOffloads_OfTheSamePages_KeepThemWhole) {
  constexpr uint64_t kPages = 256;
  Start(kPages);
  FillRam();
  for (uint64_t round = 0; round < 20; ++round) {
    std::thread other([&] { Offload(Scattered(0, kPages), 1); });
    Offload(Straight(0, kPages), 2);
    ExpectWhole(round, 40);
    other.join();
    EXPECT_TRUE(pager_->RecallAll().ok());
    ExpectWhole(0, kPages);
  }
  AwaitPool(0);
}

// A hostile guest's balloon takes pages away in the midst.
TEST_P(PagerRace, Offload_Ends_WhenPagesVanishMeanwhile) {
  constexpr uint64_t kPages = 512;
  Start(kPages);
  std::atomic<bool> stop{false};
  std::thread balloon([&] {
    std::mt19937 random(1);
    while (!stop) EXPECT_TRUE(memory_->Release(Range(random() % (kPages - 4), 4)).ok());
  });
  for (int round = 0; round < 6; ++round) {
    for (uint64_t page = 0; page < kPages; ++page) {
      __atomic_store_n(reinterpret_cast<uint64_t*>(Page(page)), page + 1, __ATOMIC_RELAXED);
    }
    Offload(Scattered(0, kPages));
    for (uint64_t page = 0; page < kPages; ++page) {
      const uint64_t word = Word(page);
      ASSERT_TRUE(word == 0 || word == page + 1) << page << " " << word;
    }
  }
  stop = true;
  balloon.join();
}

TEST_P(PagerRace, Drop_WhileOthersTouch_LeavesOldOrZero) {
  constexpr uint64_t kPages = 512;
  Start(kPages);
  for (int round = 0; round < 10; ++round) {
    FillRam();
    Offload(Straight(0, kPages));
    std::atomic<uint64_t> broken{0};
    std::thread reader([&] {
      for (uint64_t page = kPages; page-- > 0;) {
        if (Word(page) != 0 && !PageIsWhole(page)) ++broken;
      }
    });
    while (!pager_->Drop(Range(0, kPages))->empty()) std::this_thread::yield();
    reader.join();
    EXPECT_EQ(broken, 0u);
    AwaitPool(0);
  }
}

}  // namespace
}  // namespace moult::host::testing
