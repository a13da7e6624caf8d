// SPDX-License-Identifier: Apache-2.0
#include "proc/status.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <string>

#include "proc/read.h"
#include "proc/stat.h"

namespace moult::proc {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr std::string_view kStatus =
    "Name:\ta) (b\\n\\\\c d\n"
    "Umask:\t0022\n"
    "State:\tt (tracing stop)\n"
    "Tgid:\t9989\n"
    "Ngid:\t0\n"
    "Pid:\t9990\n"
    "PPid:\t9984\n"
    "TracerPid:\t77\n"
    "Uid:\t0\t1\t2\t4294967294\n"
    "Gid:\t5\t6\t7\t8\n"
    "FDSize:\t256\n"
    "Groups:\t4 24 4294967295 \n"
    "NStgid:\t9989\t1\n"
    "NSpid:\t9990\t2\n"
    "NSpgid:\t9984\t0\n"
    "NSsid:\t3133\t0\n"
    "Kthread:\t0\n"
    "VmPeak:\t    3060 kB\n"
    "VmSize:\t    3061 kB\n"
    "VmLck:\t       1 kB\n"
    "VmPin:\t       2 kB\n"
    "VmHWM:\t    1672 kB\n"
    "VmRSS:\t    1673 kB\n"
    "RssAnon:\t     112 kB\n"
    "RssFile:\t    1560 kB\n"
    "RssShmem:\t       3 kB\n"
    "VmData:\t     360 kB\n"
    "VmPTE:\t      44 kB\n"
    "VmSwap:\t       4 kB\n"
    "HugetlbPages:\t    2048 kB\n"
    "CoreDumping:\t0\n"
    "THP_enabled:\t0\n"
    "untag_mask:\t0xffffffffffffffff\n"
    "Threads:\t2\n"
    "SigQ:\t1/96365\n"
    "SigPnd:\t0000000000000001\n"
    "ShdPnd:\t0000000000000002\n"
    "SigBlk:\t8000000000000004\n"
    "SigIgn:\t0000000001001000\n"
    "SigCgt:\t0000000000000002\n"
    "CapInh:\t0000000000000010\n"
    "CapPrm:\t000001fffeffffff\n"
    "CapEff:\t000001fffefffffe\n"
    "CapBnd:\t000001fffefffffd\n"
    "CapAmb:\t0000000000000020\n"
    "NoNewPrivs:\t1\n"
    "Seccomp:\t2\n"
    "Seccomp_filters:\t3\n"
    "Speculation_Store_Bypass:\tvulnerable\n"
    "x86_Thread_features:\t\n"
    "Cpus_allowed:\t3\n"
    "nonvoluntary_ctxt_switches:\t0\n";

TEST(ParseStatus, ParseStatus_ReadsAllFields_WhenTextIsReal) {
  const auto got = ParseStatus(kStatus);
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->name, "a) (b\n\\c d");
  EXPECT_EQ(got->umask, 022u);
  EXPECT_EQ(got->state, 't');
  EXPECT_EQ(got->tgid, 9989);
  EXPECT_EQ(got->pid, 9990);
  EXPECT_EQ(got->ppid, 9984);
  EXPECT_EQ(got->tracer_pid, 77);
  EXPECT_THAT(got->uid, ElementsAre(0, 1, 2, 4294967294u));
  EXPECT_THAT(got->gid, ElementsAre(5, 6, 7, 8));
  EXPECT_THAT(got->groups, ElementsAre(4, 24, 4294967295u));
  EXPECT_THAT(got->ns_tgid, ElementsAre(9989, 1));
  EXPECT_THAT(got->ns_pid, ElementsAre(9990, 2));
  EXPECT_THAT(got->ns_pgid, ElementsAre(9984, 0));
  EXPECT_THAT(got->ns_sid, ElementsAre(3133, 0));
  EXPECT_FALSE(got->kthread);
  EXPECT_EQ(got->vm_size, 3061u << 10);
  EXPECT_EQ(got->vm_locked, 1u << 10);
  EXPECT_EQ(got->vm_pinned, 2u << 10);
  EXPECT_EQ(got->vm_rss, 1673u << 10);
  EXPECT_EQ(got->rss_anon, 112u << 10);
  EXPECT_EQ(got->rss_file, 1560u << 10);
  EXPECT_EQ(got->rss_shmem, 3u << 10);
  EXPECT_EQ(got->vm_pte, 44u << 10);
  EXPECT_EQ(got->vm_swap, 4u << 10);
  EXPECT_EQ(got->hugetlb_pages, 2u << 20);
  EXPECT_FALSE(got->core_dumping);
  EXPECT_EQ(got->thp_enabled, false);
  EXPECT_EQ(got->threads, 2);
  EXPECT_EQ(got->sig_queued, 1u);
  EXPECT_EQ(got->sig_queue_limit, 96365u);
  EXPECT_EQ(got->sig_pending, 1u);
  EXPECT_EQ(got->shared_pending, 2u);
  EXPECT_EQ(got->blocked, 0x8000000000000004u);
  EXPECT_EQ(got->ignored, 0x1001000u);
  EXPECT_EQ(got->caught, 2u);
  EXPECT_EQ(got->cap_inh, 0x10u);
  EXPECT_EQ(got->cap_prm, 0x1fffeffffffu);
  EXPECT_EQ(got->cap_eff, 0x1fffefffffeu);
  EXPECT_EQ(got->cap_bnd, 0x1fffefffffdu);
  EXPECT_EQ(got->cap_amb, 0x20u);
  EXPECT_TRUE(got->no_new_privs);
  EXPECT_EQ(got->seccomp, 2);
  EXPECT_EQ(got->seccomp_filters, 3);
}

std::string Replaced(std::string_view from, std::string_view to) {
  std::string text(kStatus);
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(ParseStatus, ParseStatus_NamesTheLine_WhenAKnownLineIsMalformed) {
  struct {
    std::string_view from;
    std::string_view to;
  } const cases[] = {
      {"Umask:\t0022", "Umask:\t0092"},
      {"Pid:\t9990", "Pid:\t99999999999"},
      {"Uid:\t0\t1\t2\t4294967294", "Uid:\t0\t1\t2"},
      {"Uid:\t0\t1\t2\t4294967294", "Uid:\t0\t1\t2\t-1"},
      {"Gid:\t5\t6\t7\t8", "Gid:\t5\t6\t7\t8\t9"},
      {"Groups:\t4 24", "Groups:\t4 x"},
      {"VmRSS:\t    1673 kB", "VmRSS:\t    1673"},
      {"THP_enabled:\t0", "THP_enabled:\t2"},
      {"SigQ:\t1/96365", "SigQ:\t1"},
      {"SigBlk:\t8000000000000004", "SigBlk:\t18000000000000004"},
      {"CapEff:\t000001fffefffffe", "CapEff:\t"},
      {"Seccomp:\t2", "Seccomp:\tfilter"},
  };
  for (const auto& test : cases) {
    const auto got = ParseStatus(Replaced(test.from, test.to));
    ASSERT_FALSE(got.ok()) << test.to;
    EXPECT_EQ(got.status().code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(got.status().message()),
                HasSubstr(std::string(test.to.substr(0, test.to.find(':')))));
  }
}

TEST(ParseStatus, ParseStatus_Fails_WhenTextIsCutBeforeSeccomp) {
  const size_t needed = kStatus.find("Seccomp:\t2") + 10;
  for (size_t size = 0; size < needed; ++size) {
    EXPECT_FALSE(ParseStatus(std::string(kStatus.substr(0, size))).ok()) << size;
  }
  for (size_t size = needed; size < kStatus.size(); ++size) {
    (void)ParseStatus(std::string(kStatus.substr(0, size)));
  }
}

TEST(ParseStatus, ParseStatus_LeavesOptionalFieldsEmpty_WhenTaskIsAKernelThread) {
  const auto got = ParseStatus(
      "Name:\tkworker/0:0H-events\nState:\tI (idle)\nTgid:\t9\nPid:\t9\nPPid:\t2\nTracerPid:\t0\n"
      "Uid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\nGroups:\t \nKthread:\t1\nThreads:\t1\nSeccomp:\t0\n");
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->name, "kworker/0:0H-events");
  EXPECT_TRUE(got->kthread);
  EXPECT_EQ(got->thp_enabled, std::nullopt);
  EXPECT_THAT(got->groups, IsEmpty());
}

constexpr std::string_view kStat =
    "9989 (a) (b\n\\c d) R 9984 9985 3133 34816 -1 4194304 3327 6554 23 2 3 4 5 1 -51 -20 2 0 210726 "
    "96149504 "
    "3924 18446744073709551615 94602700386304 94602700386645 140732833040704 0 0 0 0 16781312 2 0 0 0 17 1 "
    "50 "
    "2 0 0 0 94602700398000 94602700398616 94603454947328 140732833044616 140732833044664 140732833044665 "
    "140732833046479 256\n";

TEST(ParseStat, ParseStat_ReadsAllFields_WhenCommHoldsParenthesesAndNewlines) {
  const auto got = ParseStat(kStat);
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->pid, 9989);
  EXPECT_EQ(got->comm, "a) (b\n\\c d");
  EXPECT_EQ(got->state, 'R');
  EXPECT_EQ(got->ppid, 9984);
  EXPECT_EQ(got->pgrp, 9985);
  EXPECT_EQ(got->session, 3133);
  EXPECT_EQ(got->tty_nr, 34816);
  EXPECT_EQ(got->tpgid, -1);
  EXPECT_EQ(got->flags, 4194304u);
  EXPECT_EQ(got->utime, 3u);
  EXPECT_EQ(got->stime, 4u);
  EXPECT_EQ(got->priority, -51);
  EXPECT_EQ(got->nice, -20);
  EXPECT_EQ(got->num_threads, 2);
  EXPECT_EQ(got->start_time, 210726u);
  EXPECT_EQ(got->vsize, 96149504u);
  EXPECT_EQ(got->start_code, 94602700386304u);
  EXPECT_EQ(got->end_code, 94602700386645u);
  EXPECT_EQ(got->start_stack, 140732833040704u);
  EXPECT_EQ(got->exit_signal, 17);
  EXPECT_EQ(got->processor, 1);
  EXPECT_EQ(got->rt_priority, 50u);
  EXPECT_EQ(got->policy, 2u);
  EXPECT_EQ(got->start_data, 94602700398000u);
  EXPECT_EQ(got->end_data, 94602700398616u);
  EXPECT_EQ(got->start_brk, 94603454947328u);
  EXPECT_EQ(got->arg_start, 140732833044616u);
  EXPECT_EQ(got->arg_end, 140732833044664u);
  EXPECT_EQ(got->env_start, 140732833044665u);
  EXPECT_EQ(got->env_end, 140732833046479u);
  EXPECT_EQ(got->exit_code, 256);
}

TEST(ParseStat, ParseStat_Fails_WhenTextIsCutAnywhereBeforeTheLastField) {
  for (size_t size = 0; size + 4 < kStat.size(); ++size) {
    const auto got = ParseStat(std::string(kStat.substr(0, size)));
    ASSERT_FALSE(got.ok()) << size;
    EXPECT_THAT(std::string(got.status().message()), HasSubstr("parse stat line 1"));
  }
}

TEST(ParseStat, ParseStat_Fails_WhenParenthesesAreInTheWrongOrder) {
  EXPECT_FALSE(ParseStat(") (x").ok());
  EXPECT_FALSE(ParseStat("1 (").ok());
  EXPECT_FALSE(ParseStat("1 )").ok());
  EXPECT_FALSE(ParseStat("1 ()").ok());
  EXPECT_FALSE(ParseStat("x (y) R 1").ok());
}

TEST(ParseStat, ParseStat_AgreesWithStatus_WhenThisThreadHasAnOddName) {
  char old[16] = {};
  ASSERT_EQ(prctl(PR_GET_NAME, old), 0);
  ASSERT_EQ(prctl(PR_SET_NAME, "a) R\n\\n 1 (\t"), 0);
  const auto stat_text = ReadFile("/proc/thread-self/stat");
  const auto status_text = ReadFile("/proc/thread-self/status");
  ASSERT_EQ(prctl(PR_SET_NAME, old), 0);
  ASSERT_TRUE(stat_text.ok() && status_text.ok());
  const auto stat = ParseStat(*stat_text);
  const auto status = ParseStatus(*status_text);
  ASSERT_TRUE(stat.ok()) << stat.status();
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_EQ(stat->comm, "a) R\n\\n 1 (\t");
  EXPECT_EQ(status->name, stat->comm);
  EXPECT_EQ(stat->pid, status->pid);
  EXPECT_EQ(stat->ppid, getppid());
  EXPECT_EQ(status->ppid, getppid());
  EXPECT_EQ(status->uid[1], geteuid());
}

}  // namespace
}  // namespace moult::proc
