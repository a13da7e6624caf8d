// SPDX-License-Identifier: Apache-2.0
#include "proc/maps.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <time.h>

#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "proc/read.h"

namespace moult::proc {
namespace {

using ::testing::HasSubstr;

struct MapsCase {
  const char* name;
  std::string line;
  MapsEntry want;
};

void PrintTo(const MapsCase& test, std::ostream* out) { *out << test.name; }

class MapsLine : public ::testing::TestWithParam<MapsCase> {};

TEST_P(MapsLine, ParseMaps_ReadsAllFields_WhenLineIsReal) {
  const auto entries = ParseMaps(GetParam().line + "\n");
  ASSERT_TRUE(entries.ok()) << entries.status();
  ASSERT_EQ(entries->size(), 1u);
  const MapsEntry& got = entries->front();
  const MapsEntry& want = GetParam().want;
  EXPECT_EQ(got.start, want.start);
  EXPECT_EQ(got.end, want.end);
  EXPECT_EQ(got.read, want.read);
  EXPECT_EQ(got.write, want.write);
  EXPECT_EQ(got.exec, want.exec);
  EXPECT_EQ(got.shared, want.shared);
  EXPECT_EQ(got.offset, want.offset);
  EXPECT_EQ(got.dev_major, want.dev_major);
  EXPECT_EQ(got.dev_minor, want.dev_minor);
  EXPECT_EQ(got.inode, want.inode);
  EXPECT_EQ(got.path, want.path);
  EXPECT_EQ(got.deleted, want.deleted);
}

// As a 6.18 kernel prints them, except where the name says otherwise.
const MapsCase kLines[] = {
    {"file",
     "560a6859f000-560a685a0000 r-xp 00001000 fe:00 18624                      /usr/bin/python3.11",
     {0x560a6859f000, 0x560a685a0000, true, false, true, false, 0x1000, 0xfe, 0, 18624, "/usr/bin/python3.11",
      false}},
    {"anonymous",
     "7f11d4021000-7f11d8000000 ---p 00000000 00:00 0 ",
     {0x7f11d4021000, 0x7f11d8000000, false, false, false, false, 0, 0, 0, 0, "", false}},
    {"heap",
     "560a9553a000-560a957aa000 rw-p 00000000 00:00 0                          [heap]",
     {0x560a9553a000, 0x560a957aa000, true, true, false, false, 0, 0, 0, 0, "[heap]", false}},
    {"vvar_vclock",
     "7f11dc10e000-7f11dc110000 r--p 00000000 00:00 0                          [vvar_vclock]",
     {0x7f11dc10e000, 0x7f11dc110000, true, false, false, false, 0, 0, 0, 0, "[vvar_vclock]", false}},
    {"vsyscall",
     "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]",
     {0xffffffffff600000, 0xffffffffff601000, false, false, true, false, 0, 0, 0, 0, "[vsyscall]", false}},
    {"shared_anonymous",
     "7f11db146000-7f11db14a000 rw-s 00000000 00:01 1032                       /dev/zero (deleted)",
     {0x7f11db146000, 0x7f11db14a000, true, true, false, true, 0, 0, 1, 1032, "/dev/zero", true}},
    {"memfd",
     "7f11db28e000-7f11db290000 rw-s 00000000 00:01 1030                       /memfd:my memfd (deleted)",
     {0x7f11db28e000, 0x7f11db290000, true, true, false, true, 0, 0, 1, 1030, "/memfd:my memfd", true}},
    {"newline_in_path",
     "7f11dbfbb000-7f11dbfbc000 rw-s 00000000 fe:00 10953273                   /t/we "
     "ird\\012(dir)\\x/nl\\012f",
     {0x7f11dbfbb000, 0x7f11dbfbc000, true, true, false, true, 0, 0xfe, 0, 10953273,
      "/t/we ird\n(dir)\\x/nl\nf", false}},
    {"other_octal_is_not_an_escape",
     "7f11dbfbb000-7f11dbfbc000 rw-s 00000000 fe:00 10953273                   /t/a\\040b\\01",
     {0x7f11dbfbb000, 0x7f11dbfbc000, true, true, false, true, 0, 0xfe, 0, 10953273, "/t/a\\040b\\01",
      false}},
    {"deleted_twice",
     "7f11db290000-7f11db291000 rw-s 00000000 fe:00 10953276                   /t/really (deleted) (deleted)",
     {0x7f11db290000, 0x7f11db291000, true, true, false, true, 0, 0xfe, 0, 10953276, "/t/really (deleted)",
      true}},
    {"deleted_only_with_an_inode",
     "7f11db290000-7f11db291000 rw-p 00000000 00:00 0                          x (deleted)",
     {0x7f11db290000, 0x7f11db291000, true, true, false, false, 0, 0, 0, 0, "x (deleted)", false}},
    {"anon_name",
     "7f11db290000-7f11db291000 rw-p 00000000 00:00 0                          [anon:my name]",
     {0x7f11db290000, 0x7f11db291000, true, true, false, false, 0, 0, 0, 0, "[anon:my name]", false}},
    {"anon_shmem_name",
     "7f11db290000-7f11db291000 rw-s 00000000 00:01 77                         [anon_shmem:pool]",
     {0x7f11db290000, 0x7f11db291000, true, true, false, true, 0, 0, 1, 77, "[anon_shmem:pool]", false}},
    {"large_device_and_inode",
     "00400000-00401000 r--p ffff000000000000 103:fffff 18446744073709551615 /x",
     {0x400000, 0x401000, true, false, false, false, 0xffff000000000000, 0x103, 0xfffff, UINT64_MAX, "/x",
      false}},
};

INSTANTIATE_TEST_SUITE_P(Real, MapsLine, ::testing::ValuesIn(kLines),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(ParseMaps, ParseMaps_NamesTheLine_WhenItIsMalformed) {
  const std::string good = "00400000-00401000 r--p 00000000 fe:00 1 /x\n";
  for (const std::string bad : {
           "00400000-00401000",
           "00400000-00401000 r--p",
           "00400000-00401000 r--q 00000000 fe:00 1 /x",
           "00400000-00401000 rw-x 00000000 fe:00 1 /x",
           "00401000-00400000 r--p 00000000 fe:00 1 /x",
           "00400000-00400000 r--p 00000000 fe:00 1 /x",
           "10000000000000000-10000000000001000 r--p 00000000 fe:00 1 /x",
           "00400000-00401000 r--p 00000000 fe:00 18446744073709551616 /x",
           "00400000-00401000 r--p 00000000 fe00 1 /x",
           "00400000-00401000 r--p 00000000 1fe000000:00 1 /x",
           "00400000-00401000 r--p 00000000 fe:00 1x",
           "g0400000-00401000 r--p 00000000 fe:00 1 /x",
           "",
           "\xff\xfe",
       }) {
    const auto entries = ParseMaps(good + bad + "\n");
    ASSERT_FALSE(entries.ok()) << bad;
    EXPECT_EQ(entries.status().code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(entries.status().message()), HasSubstr("parse maps line 2 \"")) << bad;
  }
}

TEST(ParseMaps, ParseMaps_IsEmpty_WhenTextIsEmpty) {
  const auto entries = ParseMaps("");
  ASSERT_TRUE(entries.ok());
  EXPECT_TRUE(entries->empty());
}

TEST(ParseMaps, ParseMaps_ShortensTheQuote_WhenLineIsLong) {
  const auto entries = ParseMaps(std::string(100000, 'z'));
  ASSERT_FALSE(entries.ok());
  EXPECT_LT(entries.status().message().size(), 300u);
}

constexpr std::string_view kSmaps =
    "7f11db14a000-7f11db14b000 rw-p 00000000 00:00 0 \n"
    "Size:                  4 kB\n"
    "KernelPageSize:        4 kB\n"
    "MMUPageSize:           4 kB\n"
    "Rss:                  12 kB\n"
    "Pss:                  11 kB\n"
    "Pss_Dirty:            11 kB\n"
    "Shared_Clean:          1 kB\n"
    "Shared_Dirty:          2 kB\n"
    "Private_Clean:         3 kB\n"
    "Private_Dirty:         8 kB\n"
    "Referenced:            4 kB\n"
    "Anonymous:             5 kB\n"
    "KSM:                   0 kB\n"
    "LazyFree:              6 kB\n"
    "AnonHugePages:      2048 kB\n"
    "ShmemPmdMapped:        0 kB\n"
    "FilePmdMapped:         0 kB\n"
    "Shared_Hugetlb:       17 kB\n"
    "Private_Hugetlb:      18 kB\n"
    "Swap:                  9 kB\n"
    "SwapPss:               9 kB\n"
    "Locked:               10 kB\n"
    "THPeligible:           0\n"
    "ProtectionKey:         3\n"
    "VmFlags: rd wr mr mw me lo lf ac wf zz \n"
    "7ffeea839000-7ffeea85a000 rw-p 00000000 00:00 0                          [stack]\n"
    "KernelPageSize:     2048 kB\n"
    "Rss:                   0 kB\n"
    "NewInSomeKernel:  whatever\n"
    "VmFlags: rd wr mr mw me gd ac\n";

TEST(ParseSmaps, ParseSmaps_ReadsBytesAndFlags_WhenTextIsReal) {
  const auto entries = ParseSmaps(kSmaps);
  ASSERT_TRUE(entries.ok()) << entries.status();
  ASSERT_EQ(entries->size(), 2u);
  const SmapsEntry& first = entries->front();
  EXPECT_EQ(first.start, 0x7f11db14a000u);
  EXPECT_EQ(first.rss, 12u << 10);
  EXPECT_EQ(first.pss, 11u << 10);
  EXPECT_EQ(first.shared_clean, 1u << 10);
  EXPECT_EQ(first.shared_dirty, 2u << 10);
  EXPECT_EQ(first.private_clean, 3u << 10);
  EXPECT_EQ(first.referenced, 4u << 10);
  EXPECT_EQ(first.private_dirty, 8u << 10);
  EXPECT_EQ(first.anonymous, 5u << 10);
  EXPECT_EQ(first.lazy_free, 6u << 10);
  EXPECT_EQ(first.anon_huge_pages, 2u << 20);
  EXPECT_EQ(first.shared_hugetlb, 17u << 10);
  EXPECT_EQ(first.private_hugetlb, 18u << 10);
  EXPECT_EQ(first.swap, 9u << 10);
  EXPECT_EQ(first.locked, 10u << 10);
  EXPECT_EQ(first.kernel_page_size, 4096u);
  EXPECT_EQ(first.mmu_page_size, 4096u);
  EXPECT_EQ(first.protection_key, 3);
  EXPECT_EQ(first.vm_flags, kVmRead | kVmWrite | kVmMayRead | kVmMayWrite | kVmMayExec | kVmLocked |
                                kVmLockOnFault | kVmAccount | kVmWipeOnFork);
  const SmapsEntry& stack = entries->back();
  EXPECT_EQ(stack.path, "[stack]");
  EXPECT_EQ(stack.kernel_page_size, 2u << 20);
  EXPECT_TRUE(stack.Has(kVmGrowsDown));
  EXPECT_FALSE(stack.Has(kVmLocked));
}

TEST(ParseSmaps, ParseSmaps_Fails_WhenAMappingLacksItsFlags) {
  const std::string text(kSmaps);
  const auto entries = ParseSmaps(text.substr(0, text.find("VmFlags")));
  ASSERT_FALSE(entries.ok());
  EXPECT_THAT(std::string(entries.status().message()),
              HasSubstr("mapping 7f11db14a000-7f11db14b000 has no VmFlags line"));
}

TEST(ParseSmaps, ParseSmaps_Fails_WhenAKnownLineIsMalformed) {
  const std::string head = "00400000-00401000 r--p 00000000 fe:00 1 /x\n";
  for (const std::string bad : {"Rss: 4", "Rss: -4 kB", "Rss: 4 MB", "Rss:", "Swap: 4 kBx", "Locked: 1f kB",
                                "Rss: 18446744073709551615 kB", "ProtectionKey: x", "NoColon"}) {
    const auto entries = ParseSmaps(absl::StrCat(head, bad, "\nKernelPageSize: 4 kB\nVmFlags: rd\n"));
    ASSERT_FALSE(entries.ok()) << bad;
    EXPECT_THAT(std::string(entries.status().message()), HasSubstr("parse smaps line 2 \"" + bad)) << bad;
  }
  EXPECT_FALSE(ParseSmaps("Rss: 4 kB\n").ok());
}

TEST(ParseSmaps, ParseSmaps_DoesNotCrash_WhenTextIsCutAtAnyByte) {
  for (size_t size = 0; size < kSmaps.size(); ++size) {
    const std::string cut(kSmaps.substr(0, size));
    (void)ParseSmaps(cut);
    (void)ParseMaps(cut);
  }
}

TEST(VmFlagBit, VmFlagBit_GivesDistinctBits_WhenCodesAreKnown) {
  std::set<uint64_t> bits;
  const char* const codes[] = {"rd", "wr", "ex", "sh", "mr", "mw", "me", "ms", "gd", "pf", "dw", "lo", "io",
                               "sr", "rr", "dc", "de", "lf", "ac", "nr", "ht", "sf", "ar", "wf", "dd", "sd",
                               "mm", "hg", "nh", "mg", "um", "uw", "ui", "bt", "mt", "ss", "sl", "dp", "gu"};
  for (const char* code : codes) {
    const uint64_t bit = VmFlagBit(code);
    EXPECT_NE(bit, 0u) << code;
    EXPECT_TRUE(bits.insert(bit).second) << code;
  }
  EXPECT_EQ(VmFlagBit("zz"), 0u);
  EXPECT_EQ(VmFlagBit("rdx"), 0u);
  EXPECT_EQ(VmFlagBit(""), 0u);
}

TEST(ParseSmaps, ParseSmaps_AgreesWithMaps_WhenReadFromThisProcess) {
  const auto maps_text = ReadFile("/proc/self/maps");
  const auto smaps_text = ReadFile("/proc/self/smaps");
  ASSERT_TRUE(maps_text.ok() && smaps_text.ok());
  const auto maps = ParseMaps(*maps_text);
  const auto smaps = ParseSmaps(*smaps_text);
  ASSERT_TRUE(maps.ok()) << maps.status();
  ASSERT_TRUE(smaps.ok()) << smaps.status();
  ASSERT_FALSE(smaps->empty());
  for (const SmapsEntry& entry : *smaps) {
    if (entry.path == "[vsyscall]") continue;
    EXPECT_EQ(entry.read, entry.Has(kVmRead)) << entry.path;
    EXPECT_EQ(entry.write, entry.Has(kVmWrite)) << entry.path;
    EXPECT_EQ(entry.exec, entry.Has(kVmExec)) << entry.path;
  }
}

TEST(ParseSmaps, ParseSmaps_IsFast_WhenThereAre5000Mappings) {
  std::string text;
  const std::string_view body =
      kSmaps.substr(kSmaps.find('\n') + 1, kSmaps.find("7ffe") - kSmaps.find('\n') - 1);
  for (int i = 0; i < 5000; ++i) {
    absl::StrAppendFormat(&text,
                          "%x-%x rw-p 00000000 fe:00 1234567                    /usr/lib/libexample.so.1\n",
                          0x7f0000000000 + i * 0x2000, 0x7f0000001000 + i * 0x2000);
    text.append(body);
  }
  // By this thread's own CPU time: others may have the CPU for long.
  const auto used = [] {
    timespec now{};
    EXPECT_EQ(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now), 0);
    return absl::DurationFromTimespec(now);
  };
  const absl::Duration begin = used();
  const auto entries = ParseSmaps(text);
  const absl::Duration took = used() - begin;
  ASSERT_TRUE(entries.ok()) << entries.status();
  EXPECT_EQ(entries->size(), 5000u);
  RecordProperty("milliseconds", static_cast<int>(absl::ToInt64Milliseconds(took)));
  // Some tens of times what an optimized build needs, for sanitizers.
  EXPECT_LT(took, absl::Seconds(1));
}

}  // namespace
}  // namespace moult::proc
