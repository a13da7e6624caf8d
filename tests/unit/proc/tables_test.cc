// SPDX-License-Identifier: Apache-2.0
//
// The files of one record per line: locks, mountinfo, timers, limits, and the small ones.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/resource.h>

#include <cstring>
#include <string>

#include "proc/auxv.h"
#include "proc/cpuinfo.h"
#include "proc/limits.h"
#include "proc/locks.h"
#include "proc/mountinfo.h"
#include "proc/numa_maps.h"
#include "proc/pagemap.h"
#include "proc/read.h"
#include "proc/timens.h"
#include "proc/timer_list.h"
#include "proc/timers.h"

namespace moult::proc {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

template <typename T>
std::string Message(const absl::StatusOr<T>& result) {
  return std::string(result.status().message());
}

// ---- locks

constexpr std::string_view kLocks =
    "1: LEASE  ACTIVE    READ 9989 fe:00:10953280 0 EOF\n"
    "2: OFDLCK ADVISORY  WRITE -1 fe:00:10953279 0 EOF\n"
    "3: FLOCK  ADVISORY  READ 9989 fe:00:10953278 0 EOF\n"
    "4: POSIX  ADVISORY  WRITE 9989 103:0a:10953277 5 14\n"
    "4: -> POSIX  ADVISORY  READ 9990 103:0a:10953277 5 9223372036854775806\n"
    "5:  -> LEASE  BREAKER   WRITE 0 <none>:0 0 EOF\n"
    "6: LEASE  BREAKING  UNLCK 7 00:1e:1 0 EOF\n";

TEST(ParseLocks, ParseLocks_ReadsAllKinds_WhenTextIsReal) {
  const auto locks = ParseLocks(kLocks);
  ASSERT_TRUE(locks.ok()) << locks.status();
  ASSERT_THAT(*locks, SizeIs(7));
  EXPECT_EQ((*locks)[0].kind, LockKind::kLease);
  EXPECT_EQ((*locks)[0].lease, LeaseState::kActive);
  EXPECT_EQ((*locks)[0].access, LockAccess::kRead);
  EXPECT_EQ((*locks)[1].kind, LockKind::kOfd);
  EXPECT_EQ((*locks)[1].pid, -1);
  EXPECT_EQ((*locks)[2].kind, LockKind::kFlock);
  EXPECT_EQ((*locks)[2].lease, LeaseState::kNotLease);
  const LockInfo& posix = (*locks)[3];
  EXPECT_EQ(posix.id, 4u);
  EXPECT_FALSE(posix.waiting);
  EXPECT_EQ(posix.kind, LockKind::kPosix);
  EXPECT_EQ(posix.access, LockAccess::kWrite);
  EXPECT_EQ(posix.pid, 9989);
  EXPECT_EQ(posix.dev_major, 0x103u);
  EXPECT_EQ(posix.dev_minor, 0xau);
  EXPECT_EQ(posix.inode, 10953277u);
  EXPECT_EQ(posix.start, 5u);
  EXPECT_EQ(posix.end, 14u);
  EXPECT_TRUE((*locks)[4].waiting);
  EXPECT_EQ((*locks)[4].end, 9223372036854775806u);
  EXPECT_TRUE((*locks)[5].waiting);
  EXPECT_EQ((*locks)[5].lease, LeaseState::kBreaker);
  EXPECT_EQ((*locks)[6].access, LockAccess::kNone);
}

TEST(ParseLocks, ParseLocks_NamesTheLine_WhenItIsMalformed) {
  for (const std::string bad :
       {"1", "1: POSIX", "x: POSIX  ADVISORY  READ 1 0:0:1 0 EOF", "1: POSIX  ADVISORY  FOO 1 0:0:1 0 EOF",
        "1: POSIX  ADVISORY  READ 1 0:0 0 EOF", "1: POSIX  ADVISORY  READ 1 0:0:1 0 ",
        "1: POSIX  ADVISORY  READ 1 0:0:1 0 EOFx"}) {
    const auto locks = ParseLocks(bad + "\n");
    ASSERT_FALSE(locks.ok()) << bad;
    EXPECT_THAT(Message(locks), HasSubstr("parse locks line 1 \"" + bad)) << bad;
  }
}

// ---- mountinfo

constexpr std::string_view kMounts =
    "22 27 0:21 / /proc rw,relatime - proc proc rw\n"
    "24 27 0:6 / /dev rw,relatime shared:2 - devtmpfs devtmpfs rw,size=12334460k,mode=755\n"
    "36 35 98:0 /a\\040b\\134 /mnt\\011x\\012y rw master:1 propagate_from:3 unbindable future:9 - ext3 "
    "/dev/r\\040t "
    "rw,errors=continue\n"
    "40 27 0:33 / /empty ro,nosuid -  tmpfs  rw\n";

TEST(ParseMountInfo, ParseMountInfo_ReadsAllFields_WhenPathsAreEscaped) {
  const std::string_view three = kMounts.substr(0, kMounts.find("40 27"));
  const auto mounts = ParseMountInfo(three);
  ASSERT_TRUE(mounts.ok()) << mounts.status();
  ASSERT_THAT(*mounts, SizeIs(3));
  EXPECT_EQ((*mounts)[0].mount_point, "/proc");
  EXPECT_EQ((*mounts)[0].fs_type, "proc");
  EXPECT_EQ((*mounts)[1].shared, 2);
  EXPECT_EQ((*mounts)[1].super_options, "rw,size=12334460k,mode=755");
  const MountInfo& odd = (*mounts)[2];
  EXPECT_EQ(odd.id, 36);
  EXPECT_EQ(odd.parent_id, 35);
  EXPECT_EQ(odd.dev_major, 98u);
  EXPECT_EQ(odd.dev_minor, 0u);
  EXPECT_EQ(odd.root, "/a b\\");
  EXPECT_EQ(odd.mount_point, "/mnt\tx\ny");
  EXPECT_EQ(odd.options, "rw");
  EXPECT_EQ(odd.shared, 0);
  EXPECT_EQ(odd.master, 1);
  EXPECT_EQ(odd.propagate_from, 3);
  EXPECT_TRUE(odd.unbindable);
  EXPECT_EQ(odd.fs_type, "ext3");
  EXPECT_EQ(odd.source, "/dev/r t");
  EXPECT_EQ(odd.super_options, "rw,errors=continue");
}

TEST(ParseMountInfo, ParseMountInfo_KeepsFieldsApart_WhenSourceIsEmpty) {
  const auto mounts = ParseMountInfo("40 27 0:33 / /empty ro,nosuid - tmpfs  rw\n");
  ASSERT_TRUE(mounts.ok()) << mounts.status();
  EXPECT_EQ(mounts->front().source, "");
  EXPECT_EQ(mounts->front().super_options, "rw");
}

TEST(ParseMountInfo, ParseMountInfo_NamesTheLine_WhenItIsMalformed) {
  EXPECT_THAT(Message(ParseMountInfo(kMounts)), HasSubstr("parse mountinfo line 4"));
  for (const std::string bad :
       {"22", "22 27 0:21 / /proc rw,relatime", "22 27 0:21 / /proc rw -", "22 27 0:21 / /proc rw - proc",
        "22 27 0:21 / /proc rw shared:x - proc proc rw"}) {
    EXPECT_THAT(Message(ParseMountInfo(bad)), HasSubstr("parse mountinfo line 1")) << bad;
  }
}

// ---- limits

constexpr std::string_view kLimits =
    "Limit                     Soft Limit           Hard Limit           Units     \n"
    "Max cpu time              unlimited            unlimited            seconds   \n"
    "Max file size             unlimited            unlimited            bytes     \n"
    "Max data size             unlimited            unlimited            bytes     \n"
    "Max stack size            8388608              unlimited            bytes     \n"
    "Max core file size        0                    unlimited            bytes     \n"
    "Max resident set          unlimited            unlimited            bytes     \n"
    "Max processes             96365                96365                processes \n"
    "Max open files            20000                20001                files     \n"
    "Max locked memory         8388608              8388608              bytes     \n"
    "Max address space         unlimited            unlimited            bytes     \n"
    "Max file locks            unlimited            unlimited            locks     \n"
    "Max pending signals       96365                96365                signals   \n"
    "Max msgqueue size         819200               819200               bytes     \n"
    "Max nice priority         0                    0                    \n"
    "Max realtime priority     0                    99                   \n"
    "Max realtime timeout      unlimited            18446744073709551614 us        \n";

TEST(ParseLimits, ParseLimits_FillsAllSixteen_WhenTextIsReal) {
  const auto limits = ParseLimits(kLimits);
  ASSERT_TRUE(limits.ok()) << limits.status();
  EXPECT_EQ((*limits)[RLIMIT_STACK], (Limit{8388608, RLIM_INFINITY}));
  EXPECT_EQ((*limits)[RLIMIT_CORE], (Limit{0, RLIM_INFINITY}));
  EXPECT_EQ((*limits)[RLIMIT_NOFILE], (Limit{20000, 20001}));
  EXPECT_EQ((*limits)[RLIMIT_RTPRIO], (Limit{0, 99}));
  EXPECT_EQ((*limits)[RLIMIT_RTTIME], (Limit{RLIM_INFINITY, 18446744073709551614u}));
}

TEST(ParseLimits, ParseLimits_Fails_WhenOneIsMissingOrMalformed) {
  std::string text(kLimits);
  EXPECT_THAT(Message(ParseLimits(text.substr(0, text.find("Max realtime timeout")))),
              HasSubstr("no \"Max realtime timeout\" line"));
  text.replace(text.find("20001"), 5, "2000x");
  EXPECT_THAT(Message(ParseLimits(text)), HasSubstr("parse limits line 9"));
}

TEST(ParseLimits, ParseLimits_AgreesWithGetrlimit_WhenReadFromThisProcess) {
  const auto limits = ParseLimits(*ReadFile("/proc/self/limits"));
  ASSERT_TRUE(limits.ok()) << limits.status();
  for (int i = 0; i < kLimitCount; ++i) {
    rlimit want;
    ASSERT_EQ(getrlimit(static_cast<__rlimit_resource>(i), &want), 0);
    EXPECT_EQ((*limits)[static_cast<size_t>(i)], (Limit{want.rlim_cur, want.rlim_max})) << i;
  }
}

// ---- timers

constexpr std::string_view kTimers =
    "ID: 3\nsignal: 14/0000000000000000\nnotify: signal/pid.9989\nClockID: -6\n"
    "ID: 2\nsignal: 35/0000000000000001\nnotify: signal/tid.10030\nClockID: 7\n"
    "ID: 1\nsignal: 0/0000deadbeefcafe\nnotify: none/pid.9989\nClockID: 0\n";

TEST(ParseTimers, ParseTimers_ReadsAllTimers_WhenTextIsReal) {
  const auto timers = ParseTimers(kTimers);
  ASSERT_TRUE(timers.ok()) << timers.status();
  ASSERT_THAT(*timers, SizeIs(3));
  EXPECT_EQ((*timers)[0].id, 3);
  EXPECT_EQ((*timers)[0].signo, 14);
  EXPECT_EQ((*timers)[0].clock, -6);
  EXPECT_FALSE((*timers)[0].thread);
  EXPECT_EQ((*timers)[1].notify, SIGEV_SIGNAL);
  EXPECT_TRUE((*timers)[1].thread);
  EXPECT_EQ((*timers)[1].target, 10030);
  EXPECT_EQ((*timers)[2].notify, SIGEV_NONE);
  EXPECT_EQ((*timers)[2].sigval, 0xdeadbeefcafeu);
  EXPECT_TRUE(ParseTimers("")->empty());
}

TEST(ParseTimers, ParseTimers_Fails_WhenATimerIsCutShort) {
  EXPECT_THAT(Message(ParseTimers("ID: 3\nsignal: 14/0\n")), HasSubstr("timer 3 is cut short"));
  EXPECT_THAT(Message(ParseTimers("ID: 3\nID: 4\nsignal: 14/0\nnotify: none/pid.1\nClockID: 0\n")),
              HasSubstr("timer 3 is cut short"));
  EXPECT_THAT(Message(ParseTimers("signal: 14/0\n")), HasSubstr("line 1"));
  EXPECT_THAT(Message(ParseTimers("ID: 3\nnotify: cat/pid.1\n")), HasSubstr("line 2"));
}

// ---- auxv, timens_offsets, pagemap, cpuinfo

TEST(ParseAuxv, ParseAuxv_AgreesWithGetauxval_WhenReadFromThisProcess) {
  const auto bytes = ReadFile("/proc/self/auxv");
  ASSERT_TRUE(bytes.ok());
  const auto auxv = ParseAuxv(*bytes);
  ASSERT_TRUE(auxv.ok()) << auxv.status();
  EXPECT_EQ(FindAuxv(*auxv, AT_SYSINFO_EHDR), getauxval(AT_SYSINFO_EHDR));
  EXPECT_EQ(FindAuxv(*auxv, AT_PAGESZ), 4096u);
  EXPECT_EQ(FindAuxv(*auxv, 12345), std::nullopt);
  EXPECT_EQ(FindAuxv(*auxv, AT_NULL), std::nullopt);
  EXPECT_THAT(Message(ParseAuxv(bytes->substr(0, 40))), HasSubstr("no AT_NULL"));
  EXPECT_FALSE(ParseAuxv("").ok());
}

TEST(ParseTimensOffsets, ParseTimensOffsets_ReadsBoth_WhenOneIsNegative) {
  const auto offsets =
      ParseTimensOffsets("monotonic         -12 999999999\nboottime            7         0\n");
  ASSERT_TRUE(offsets.ok()) << offsets.status();
  EXPECT_EQ(offsets->monotonic, (TimensOffset{-12, 999999999}));
  EXPECT_EQ(offsets->boottime, (TimensOffset{7, 0}));
  EXPECT_EQ(*ParseTimensOffsets(FormatTimensOffsets(*offsets)), *offsets);
}

TEST(ParseTimensOffsets, ParseTimensOffsets_Fails_WhenTextIsMalformed) {
  EXPECT_THAT(Message(ParseTimensOffsets("monotonic 0 0\n")), HasSubstr("no boottime line"));
  EXPECT_THAT(Message(ParseTimensOffsets("monotonic 0 1000000000\n")), HasSubstr("line 1"));
  EXPECT_THAT(Message(ParseTimensOffsets("boottime 0 0\nmonotonic 0\n")), HasSubstr("line 2"));
}

TEST(DecodePagemap, DecodePagemap_ReadsBits_WhenPageIsPresentSwappedOrGuarded) {
  constexpr PagemapEntry kPresent = DecodePagemap(0xa180000000001234);
  static_assert(kPresent.present && kPresent.file_or_shared && kPresent.exclusive && kPresent.soft_dirty);
  EXPECT_EQ(kPresent.pfn, 0x1234u);
  EXPECT_EQ(kPresent.swap, 0u);
  const PagemapEntry swapped = DecodePagemap((1ull << 62) | (1ull << 57) | 0x65);
  EXPECT_TRUE(swapped.swapped && swapped.uffd_wp);
  EXPECT_FALSE(swapped.present);
  EXPECT_EQ(swapped.pfn, 0u);
  EXPECT_EQ(swapped.swap, 0x65u);
  EXPECT_EQ(DecodePagemap(1ull << 58), (PagemapEntry{.guard = true}));
  EXPECT_EQ(DecodePagemap(0), PagemapEntry{});
}

TEST(ParseCpuInfo, ParseCpuInfo_ReadsOnlyTheFirstProcessor_WhenThereAreTwo) {
  const auto cpu = ParseCpuInfo(
      "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 167\n"
      "model name\t: Intel(R) Xeon(R) Processor\nstepping\t: 1\nflags\t\t: fpu sse2 xsave \nbugs\t\t: x\n"
      "power management:\n\nprocessor\t: 1\nmodel\t\t: 1\nflags\t\t: amx\n");
  ASSERT_TRUE(cpu.ok()) << cpu.status();
  EXPECT_EQ(cpu->vendor_id, "GenuineIntel");
  EXPECT_EQ(cpu->model_name, "Intel(R) Xeon(R) Processor");
  EXPECT_EQ(cpu->family, 6);
  EXPECT_EQ(cpu->model, 167);
  EXPECT_EQ(cpu->stepping, 1);
  EXPECT_THAT(cpu->flags, ElementsAre("fpu", "sse2", "xsave"));
  EXPECT_TRUE(cpu->Has("sse2"));
  EXPECT_FALSE(cpu->Has("amx"));
  EXPECT_TRUE(ParseCpuInfo(*ReadFile("/proc/cpuinfo"))->Has("sse2"));
  EXPECT_THAT(Message(ParseCpuInfo("processor: 0\n")), HasSubstr("no flags line"));
  EXPECT_THAT(Message(ParseCpuInfo("model : six\n")), HasSubstr("parse cpuinfo line 1"));
}

TEST(Tables, Parsers_DoNotCrash_WhenTextIsCutAtAnyByte) {
  for (const std::string_view text : {kLocks, kMounts, kLimits, kTimers}) {
    for (size_t size = 0; size < text.size(); ++size) {
      const std::string cut(text.substr(0, size));
      (void)ParseLocks(cut);
      (void)ParseMountInfo(cut);
      (void)ParseLimits(cut);
      (void)ParseTimers(cut);
      (void)ParseTimensOffsets(cut);
      (void)ParseCpuInfo(cut);
      (void)ParseAuxv(cut);
    }
  }
}

// ---- numa_maps

constexpr std::string_view kNumaMaps =
    "560b2aee1000 default file=/usr/bin/head mapped=2 N0=2 kernelpagesize_kB=4\n"
    "7f2fdf8a6000 bind:0 anon=1 dirty=1 N0=1 kernelpagesize_kB=4\n"
    "7f2fdf8a9000 bind:0\n"
    "7f2fdf8ab000 prefer (many):0-1 stack anon=1 N0=1 kernelpagesize_kB=4\n"
    "7ffc0c9e6000 default\n";

TEST(ParseNumaPolicies, ParseNumaPolicies_NamesEachOnce_WhenTextIsReal) {
  const auto policies = ParseNumaPolicies(kNumaMaps);
  ASSERT_TRUE(policies.ok()) << policies.status();
  EXPECT_THAT(*policies, ElementsAre("bind:0", "default", "prefer"));
  EXPECT_THAT(*ParseNumaPolicies(""), SizeIs(0));
  const auto text = ReadFile("/proc/self/numa_maps");
  if (!text.ok()) GTEST_SKIP() << "a kernel without NUMA: " << text.status();
  EXPECT_TRUE(ParseNumaPolicies(*text).ok());
}

TEST(ParseNumaPolicies, ParseNumaPolicies_NamesTheLine_WhenItIsMalformed) {
  EXPECT_THAT(Message(ParseNumaPolicies("7f2fdf8a6000 default\n7f2fdf8a9000\n")), HasSubstr("parse numa_maps line 2"));
  EXPECT_THAT(Message(ParseNumaPolicies("x default\n")), HasSubstr("parse numa_maps line 1"));
}

// ---- timer_list

constexpr std::string_view kTimerList =
    "Timer List Version: v0.10\n"
    "HRTIMER_MAX_CLOCK_BASES: 8\n"
    "now at 15234303093020 nsecs\n"
    "\n"
    "cpu: 0\n"
    " clock 0:\n"
    "  .base:       00000000a0830085\n"
    "active timers:\n"
    " #0: <00000000f9fbbb82>, tick_nohz_handler, S:01\n"
    " # expires at 15234304000000-15234304000000 nsecs [in 906980 to 906980 nsecs]\n"
    " #1: <00000000d5558bb6>, hrtimer_wakeup, S:01\n"
    " # expires at 15600600631540-15600700631540 nsecs [in 366297538520 to 366397538520 nsecs]\n"
    " clock 1:\n"
    " #0: <00000000110e267c>, hrtimer_wakeup, S:01\n"
    " # expires at 100-200 nsecs [in -5 to 95 nsecs]\n";

TEST(ParseTimerList, ParseTimerList_KeepsSleepersOnly_WhenTextIsReal) {
  const auto timers = ParseTimerList(kTimerList);
  ASSERT_TRUE(timers.ok()) << timers.status();
  EXPECT_THAT(*timers, ElementsAre(WakeupTimer{"<00000000d5558bb6>", 15600600631540, 366297538520},
                                   WakeupTimer{"<00000000110e267c>", 100, -5}));
}

TEST(ParseTimerList, ParseTimerList_ReadsTheOwnKernel) {
  const auto text = ReadFile("/proc/timer_list");
  if (!text.ok()) GTEST_SKIP() << "cannot read /proc/timer_list: " << text.status();
  EXPECT_TRUE(ParseTimerList(*text).ok());
}

TEST(ParseTimerList, ParseTimerList_NamesLine_WhenExpiryIsBad) {
  EXPECT_THAT(Message(ParseTimerList("Timer List Version: v0.10\n #0: <0>, hrtimer_wakeup, S:01\n # expires\n")),
              HasSubstr("line 3"));
  EXPECT_THAT(Message(ParseTimerList("Timer List Version: v0.10\n #0: <0>, hrtimer_wakeup, S:01\n")),
              HasSubstr("no expiry"));
  EXPECT_THAT(Message(ParseTimerList("nothing\n")), HasSubstr("no version"));
}

}  // namespace
}  // namespace moult::proc
