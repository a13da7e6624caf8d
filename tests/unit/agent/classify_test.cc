// SPDX-License-Identifier: Apache-2.0
#include "ledger/classify.h"

#include <gtest/gtest.h>
#include <linux/kernel-page-flags.h>

#include "ledger/frame_table.h"

namespace moult::agent {
namespace {

using rpc::PageClass;
using rpc::PageFlag;
using rpc::PageKind;

constexpr uint64_t kAnon = Bit(KPF_ANON) | Bit(KPF_SWAPBACKED) | Bit(KPF_UPTODATE) | Bit(KPF_LRU);
constexpr uint64_t kShmem = Bit(KPF_SWAPBACKED) | Bit(KPF_UPTODATE) | Bit(KPF_LRU);
constexpr uint64_t kFile = Bit(KPF_UPTODATE) | Bit(KPF_LRU);
constexpr uint64_t kReserved = Bit(32);
constexpr uint64_t kCgroup = 900;  // of function 4
constexpr uint64_t kHeap = 0x10000, kText = 0x400000;

// Processes of function 4: two, and its sandbox's init; one of function 5; a daemon. Each has a heap and maps
// a file.
enum Process : uint32_t { kFirst, kChild, kInit, kOther, kDaemon };

class ClassifyTest : public ::testing::Test {
 protected:
  ClassifyTest() {
    census_.processes = {{100, "py", 4, true},
                         {101, "py", 4, true},
                         {99, "init", 4, false},
                         {200, "node", 5, true},
                         {30, "sshd", 0, false}};
    census_.by_cgroup[kCgroup] = 4;
    std::vector<Vma> vmas;
    for (uint32_t process = kFirst; process <= kDaemon; ++process) {
      vmas.push_back({process, kHeap, 0, 0, 3});
      vmas.push_back({process, kText, 0x2000, 1, 5});
    }
    spaces_ = AddressSpaces(std::move(vmas), {});
  }
  static Mapping Heap(Process who, uint64_t page = 0) { return {0, kHeap + page * 4096, who * 2u}; }
  static Mapping Text(Process who, uint64_t page = 0) { return {0, kText + page * 4096, who * 2u + 1}; }
  PageUse Of(uint64_t flags, std::vector<Mapping> mappings, uint64_t mapped = 0, uint64_t cgroup = 0) {
    return classifier_.Classify(frame_++, {flags, std::max<uint64_t>(mapped, mappings.size()), cgroup},
                                mappings);
  }
  void Expect(const PageUse& use, PageClass page_class, PageKind kind, uint64_t function) {
    EXPECT_EQ(rpc::EnumNamePageClass(use.page_class), std::string(rpc::EnumNamePageClass(page_class)));
    EXPECT_EQ(rpc::EnumNamePageKind(use.kind), std::string(rpc::EnumNamePageKind(kind)));
    EXPECT_EQ(use.function, function);
  }

  uint64_t frame_ = 1000;
  Census census_;
  AddressSpaces spaces_;
  Classifier classifier_{census_, spaces_, {{0x1000000, 0x1800800}}, false};
};

TEST_F(ClassifyTest, Anonymous_IsPrivate_WhenOneProcessOfAFunctionMapsIt) {
  const PageUse use = Of(kAnon | Bit(KPF_DIRTY), {Heap(kFirst, 3)});
  Expect(use, PageClass::UserPrivate, PageKind::Anonymous, 4);
  EXPECT_EQ(use.pid, 100u);
  EXPECT_EQ(use.va, kHeap + 3 * 4096);
  EXPECT_EQ(use.prot, 3);
  EXPECT_EQ(use.file, 0u);
  EXPECT_EQ(use.flags, PageFlag::Dirty);
}

TEST_F(ClassifyTest, Anonymous_InAFilesMapping_IsACopyOfIt) {
  const PageUse use = Of(kAnon, {Text(kFirst, 2)});
  Expect(use, PageClass::UserPrivate, PageKind::FileCopy, 4);
  EXPECT_EQ(use.file, 1u);
  EXPECT_EQ(use.file_offset, 0x2000u + 2 * 4096);
}

TEST_F(ClassifyTest, Anonymous_IsShared_WhenForkedWithinAFunction) {
  const PageUse use = Of(kAnon, {Heap(kFirst), Heap(kChild)});
  Expect(use, PageClass::UserShared, PageKind::Anonymous, 4);
  EXPECT_EQ(use.flags & PageFlag::Shared, PageFlag::Shared);
}

TEST_F(ClassifyTest, Anonymous_IsTheSystems_WhenAnybodyElseHasIt) {
  for (const Process other : {kInit, kOther, kDaemon})
    Expect(Of(kAnon, {Heap(kFirst), Heap(other)}), PageClass::System, PageKind::Anonymous, 4);
  // Somebody maps it who was not seen.
  const PageUse use = Of(kAnon, {Heap(kFirst)}, /*mapped=*/2);
  Expect(use, PageClass::System, PageKind::Anonymous, 4);
  EXPECT_EQ(use.flags & PageFlag::Shared, PageFlag::Shared);
}

TEST_F(ClassifyTest, Anonymous_OfASandboxsInit_IsTheSystems) {
  Expect(Of(kAnon, {Heap(kInit)}), PageClass::System, PageKind::Anonymous, 0);
  Expect(Of(kAnon, {Heap(kDaemon)}), PageClass::System, PageKind::Anonymous, 0);
}

TEST_F(ClassifyTest, Anonymous_ThatNobodyMaps_IsTheSystems_OnBehalfOfWhoPays) {
  Expect(Of(kAnon | Bit(KPF_SWAPCACHE), {}, 0, kCgroup), PageClass::System, PageKind::SwapCache, 4);
  Expect(Of(kAnon, {}), PageClass::System, PageKind::Anonymous, 0);
}

TEST_F(ClassifyTest, Shmem_IsAFunctions_WhenItAloneMapsOrPaysForIt) {
  Expect(Of(kShmem, {Heap(kFirst), Heap(kChild)}), PageClass::UserShared, PageKind::Shmem, 4);
  Expect(Of(kShmem, {}, 0, kCgroup), PageClass::UserShared, PageKind::Shmem, 4);
  Expect(Of(kShmem, {}), PageClass::PageCache, PageKind::Shmem, 0);
  Expect(Of(kShmem, {Heap(kFirst), Heap(kDaemon)}), PageClass::PageCache, PageKind::Shmem, 0);
  Expect(Of(kShmem, {}, /*mapped=*/1, kCgroup), PageClass::PageCache, PageKind::Shmem, 0);
}

TEST_F(ClassifyTest, FilePage_IsAFunctions_WhenItMapsIt_WhoeverElseDoes) {
  Mapping touched = Text(kOther, 1);
  touched.accessed = true;
  const PageUse use = Of(kFile, {Text(kDaemon), touched});
  Expect(use, PageClass::UserFile, PageKind::File, 5);
  EXPECT_EQ(use.pid, 200u);
  EXPECT_EQ(use.file_offset, 0x3000u);
  EXPECT_EQ(use.flags, PageFlag::Accessed | PageFlag::Shared);
  Expect(Of(kFile, {Text(kDaemon)}), PageClass::PageCache, PageKind::File, 0);
  Expect(Of(kFile, {}, 0, kCgroup), PageClass::PageCache, PageKind::File, 0);
  // On its way to the LRU list.
  Expect(Of(Bit(KPF_UPTODATE), {}), PageClass::PageCache, PageKind::File, 0);
}

TEST_F(ClassifyTest, Accessed_IsTheMappingsWord_WhereAFunctionMapsIt_ElseTheKernels) {
  const uint64_t marked = kAnon | Bit(KPF_REFERENCED);
  EXPECT_EQ(Of(marked, {Heap(kFirst)}).flags, PageFlag{});
  Mapping touched = Heap(kChild);
  touched.accessed = true;
  EXPECT_EQ(Of(kAnon, {Heap(kFirst), touched}).flags, PageFlag::Accessed | PageFlag::Shared);
  EXPECT_EQ(Of(marked, {Heap(kDaemon)}).flags, PageFlag::Accessed);
  EXPECT_EQ(Of(marked, {}).flags, PageFlag::Accessed);
  EXPECT_EQ(classifier_.OfWindow(Heap(kFirst)).flags, PageFlag{});
  EXPECT_EQ(classifier_.OfWindow(touched).flags, PageFlag::Accessed);
}

TEST_F(ClassifyTest, KernelPages_AreTheSystems_OnBehalfOfWhoPays) {
  Expect(Of(Bit(KPF_SLAB), {}), PageClass::System, PageKind::Slab, 0);
  Expect(Of(Bit(KPF_PGTABLE), {}, 0, kCgroup), PageClass::System, PageKind::PageTable, 4);
  Expect(Of(0, {}, 0, kCgroup), PageClass::System, PageKind::Kernel, 4);  // a stack
  Expect(Of(kReserved, {}), PageClass::System, PageKind::Boot, 0);
  Expect(Of(Bit(KPF_ZERO_PAGE), {Heap(kFirst)}), PageClass::System, PageKind::KernelImage, 0);
}

TEST_F(ClassifyTest, KernelImage_EndsInTheMidstOfAPage) {
  frame_ = 0x1000;
  Expect(Of(kReserved, {}), PageClass::System, PageKind::KernelImage, 0);
  frame_ = 0x1800;
  Expect(Of(kReserved, {}), PageClass::System, PageKind::KernelImage, 0);
  frame_ = 0x1801;
  Expect(Of(kReserved, {}), PageClass::System, PageKind::Boot, 0);
}

TEST_F(ClassifyTest, WhatOnlyBootingNeeded_IsNoLongerOfTheKernelImage) {
  frame_ = 0x1000;
  Expect(Of(0, {}, 0, kCgroup), PageClass::System, PageKind::Kernel, 4);
  Expect(Of(Bit(KPF_BUDDY), {}), PageClass::Free, PageKind::None, 0);
}

TEST_F(ClassifyTest, PagesWithoutUse_AreFreeOrReserved) {
  Expect(Of(Bit(KPF_BUDDY), {}), PageClass::Free, PageKind::None, 0);
  Expect(Of(Bit(KPF_NOPAGE), {}), PageClass::Reserved, PageKind::Hole, 0);
  Expect(Of(Bit(KPF_OFFLINE), {}), PageClass::Reserved, PageKind::Balloon, 0);
  Expect(Of(Bit(KPF_HWPOISON) | kAnon, {Heap(kFirst)}), PageClass::Reserved, PageKind::Broken, 0);
}

TEST_F(ClassifyTest, LaterPagesOfACompoundPage_AreWhatTheFirstIs) {
  Of(Bit(KPF_COMPOUND_HEAD) | kFile, {}, 0, kCgroup);
  Expect(Of(Bit(KPF_COMPOUND_TAIL), {}), PageClass::PageCache, PageKind::File, 0);
  Of(Bit(KPF_COMPOUND_HEAD) | kShmem, {}, 0, kCgroup);
  Expect(Of(Bit(KPF_COMPOUND_TAIL), {}), PageClass::UserShared, PageKind::Shmem, 4);
  Of(Bit(KPF_COMPOUND_HEAD) | Bit(KPF_THP) | kAnon, {Heap(kFirst)});
  const PageUse use = Of(Bit(KPF_COMPOUND_TAIL), {Heap(kFirst, 1)});
  Expect(use, PageClass::UserPrivate, PageKind::Anonymous, 4);
  EXPECT_EQ(use.flags & PageFlag::Huge, PageFlag::Huge);
  // One that is none does not take after it.
  Expect(Of(0, {}), PageClass::System, PageKind::Kernel, 0);
}

TEST_F(ClassifyTest, MergedPages_AreToldOfOnlyWhereTheKernelMerges) {
  EXPECT_EQ(Of(kAnon | Bit(KPF_KSM), {Heap(kFirst)}).flags, PageFlag{});
  Classifier merging(census_, spaces_, {}, true);
  const std::vector<Mapping> mapping = {Heap(kFirst)};
  EXPECT_EQ(merging.Classify(5, {kAnon | Bit(KPF_KSM), 1, 0}, mapping).flags, PageFlag::Ksm);
}

TEST_F(ClassifyTest, HugeTlb_IsAFunctions_WhenItAloneMapsIt) {
  Expect(Of(Bit(KPF_HUGE) | Bit(KPF_COMPOUND_HEAD), {Heap(kFirst)}), PageClass::UserShared, PageKind::HugeTlb,
         4);
  Expect(Of(Bit(KPF_HUGE) | Bit(KPF_COMPOUND_HEAD), {}), PageClass::System, PageKind::HugeTlb, 0);
  // Nobody tells whether it was touched: so it is not cold.
  EXPECT_EQ(Of(Bit(KPF_HUGE) | Bit(KPF_COMPOUND_HEAD), {Heap(kFirst)}).flags, PageFlag::Accessed | PageFlag::Huge);
}

TEST_F(ClassifyTest, WindowsPage_IsATemplates) {
  const PageUse use = classifier_.OfWindow(Heap(kOther, 9));
  Expect(use, PageClass::Template, PageKind::Window, 5);
  EXPECT_EQ(use.va, kHeap + 9 * 4096);
}

}  // namespace
}  // namespace moult::agent
