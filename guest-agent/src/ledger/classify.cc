// SPDX-License-Identifier: Apache-2.0
#include "ledger/classify.h"

#include <linux/kernel-page-flags.h>

#include <algorithm>

#include "ledger/frame_table.h"

namespace moult::agent {
namespace {

using rpc::PageClass;
using rpc::PageFlag;
using rpc::PageKind;

// The kernel shows these, too, though its header for user space does not name them
// (include/linux/kernel-page-flags.h).
constexpr int kReserved = 32;
constexpr int kMlocked = 33;
constexpr int kMappedToDisk = 34;

// Only page cache and anonymous memory have any of them. A page that is on its way to the LRU list has the
// others already.
constexpr uint64_t kContent = Bit(KPF_LRU) | Bit(KPF_UPTODATE) | Bit(kMappedToDisk);
// What the first page of a compound page says for all.
constexpr uint64_t kOfAll = kContent | Bit(KPF_SWAPBACKED) | Bit(KPF_ANON) | Bit(KPF_DIRTY) |
                            Bit(KPF_REFERENCED) | Bit(KPF_WRITEBACK) | Bit(KPF_UNEVICTABLE) | Bit(KPF_SLAB) |
                            Bit(KPF_PGTABLE) | Bit(KPF_HUGE) | Bit(KPF_THP);

// What needs no look at who maps it.
struct Plain {
  uint64_t flag;
  PageClass page_class;
  PageKind kind;
};
constexpr Plain kPlain[] = {
    {Bit(KPF_NOPAGE), PageClass::Reserved, PageKind::Hole},
    {Bit(KPF_HWPOISON), PageClass::Reserved, PageKind::Broken},
    {Bit(KPF_OFFLINE), PageClass::Reserved, PageKind::Balloon},
    {Bit(KPF_BUDDY), PageClass::Free, PageKind::None},
    {Bit(KPF_SLAB), PageClass::System, PageKind::Slab},
    {Bit(KPF_PGTABLE), PageClass::System, PageKind::PageTable},
    {Bit(KPF_ZERO_PAGE), PageClass::System, PageKind::KernelImage},
};

}  // namespace

Classifier::Users Classifier::Look(const FrameInfo& info, absl::Span<const Mapping> mappings) const {
  Users users;
  if (mappings.empty()) return users;
  users.one = &mappings.front();
  const Resident* first = nullptr;
  for (const Mapping& mapping : mappings) {
    const Resident& process = Process(mapping);
    users.several = users.several || &process != &Process(mappings.front());
    if (!process.user || first != nullptr) continue;
    first = &process;
    users.one = &mapping;
    users.function = process.function;
  }
  // One that maps it, and was not seen, may be anybody.
  users.only = first != nullptr && info.mapped <= mappings.size() &&
               std::all_of(mappings.begin(), mappings.end(), [&](const Mapping& mapping) {
                 const Resident& process = Process(mapping);
                 return process.user && process.function == users.function;
               });
  return users;
}

void Classifier::Tell(const Mapping& mapping, PageUse& use) const {
  const Vma& vma = spaces_.vmas()[mapping.vma];
  use.pid = static_cast<uint32_t>(Process(mapping).pid);
  use.va = mapping.va;
  use.prot = vma.prot;
  use.file = vma.file;
  use.file_offset = vma.file != 0 ? vma.file_offset + (mapping.va - vma.start) : 0;
}

uint64_t Classifier::Payer(const FrameInfo& info) const {
  const auto found = info.cgroup != 0 ? census_.by_cgroup.find(info.cgroup) : census_.by_cgroup.end();
  return found != census_.by_cgroup.end() ? found->second : 0;
}

PageFlag Classifier::FlagsOf(const FrameInfo& info, absl::Span<const Mapping> mappings) const {
  PageFlag flags{};
  // Of functions' processes the mappings tell; of all else the kernel's own mark is what there is.
  bool of_function = false, accessed = false;
  for (const Mapping& mapping : mappings) {
    of_function = of_function || Process(mapping).user;
    accessed = accessed || mapping.accessed;
  }
  // Neither the driver nor smaps tells of hugetlb pages; they may be in use.
  if ((info.flags & Bit(KPF_HUGE)) != 0) accessed = true;
  if (of_function ? accessed : (info.flags & Bit(KPF_REFERENCED)) != 0) flags |= PageFlag::Accessed;
  if ((info.flags & Bit(KPF_DIRTY)) != 0) flags |= PageFlag::Dirty;
  if ((info.flags & (Bit(kMlocked) | Bit(KPF_UNEVICTABLE))) != 0) flags |= PageFlag::Locked;
  if ((info.flags & Bit(KPF_WRITEBACK)) != 0) flags |= PageFlag::Writeback;
  if ((info.flags & (Bit(KPF_THP) | Bit(KPF_HUGE))) != 0) flags |= PageFlag::Huge;
  if (kernel_merges_ && (info.flags & Bit(KPF_KSM)) != 0) flags |= PageFlag::Ksm;
  return flags;
}

void Classifier::ClassifyAnonymous(const FrameInfo& info, const Users& users, PageUse& use) const {
  use.kind = use.file != 0 ? PageKind::FileCopy : PageKind::Anonymous;
  use.function = users.function;
  if (users.only) {
    use.page_class = users.several ? PageClass::UserShared : PageClass::UserPrivate;
  } else if (users.one == nullptr) {
    use.kind = (info.flags & Bit(KPF_SWAPCACHE)) != 0 ? PageKind::SwapCache : PageKind::Anonymous;
    use.function = Payer(info);
  }
}

// Memory of a tmpfs file that nobody maps is its who pays for it: the sandbox's mounts are no one else's.
void Classifier::ClassifyShmem(const FrameInfo& info, const Users& users, PageUse& use) const {
  use.kind = PageKind::Shmem;
  use.page_class = PageClass::PageCache;
  const uint64_t payer = Payer(info);
  if (users.only) {
    use.page_class = PageClass::UserShared;
    use.function = users.function;
  } else if (users.one == nullptr && info.mapped == 0 && payer != 0) {
    use.page_class = PageClass::UserShared;
    use.function = payer;
  }
}

void Classifier::ClassifyFile(const Users& users, PageUse& use) const {
  use.kind = PageKind::File;
  use.page_class = users.function != 0 ? PageClass::UserFile : PageClass::PageCache;
  use.function = users.function;
}

void Classifier::ClassifyKernel(uint64_t frame, const FrameInfo& info, PageUse& use) const {
  const uint64_t at = frame * 4096;
  // Within the image, what only booting needed is the allocator's by now.
  const bool reserved = (info.flags & Bit(kReserved)) != 0;
  const bool image = reserved && std::any_of(kernel_image_.begin(), kernel_image_.end(), [at](const RamRange& range) {
                       return at + 4096 > range.start && at < range.end;
                     });
  use.kind = image ? PageKind::KernelImage : reserved ? PageKind::Boot : PageKind::Kernel;
  use.function = Payer(info);
}

PageUse Classifier::Classify(uint64_t frame, FrameInfo info, absl::Span<const Mapping> mappings) {
  if ((info.flags & Bit(KPF_COMPOUND_TAIL)) != 0) {
    info.flags |= head_.flags & kOfAll;
    if (info.cgroup == 0) info.cgroup = head_.cgroup;
  } else {
    head_ = info;
  }
  PageUse use;
  for (const Plain& plain : kPlain) {
    if ((info.flags & plain.flag) == 0) continue;
    use.page_class = plain.page_class;
    use.kind = plain.kind;
    if (use.page_class == PageClass::System) use.function = Payer(info);
    return use;
  }
  const Users users = Look(info, mappings);
  if (users.one != nullptr) Tell(*users.one, use);
  if ((info.flags & Bit(KPF_HUGE)) != 0) {
    use.kind = PageKind::HugeTlb;
    use.function = users.function;
    if (users.only) use.page_class = PageClass::UserShared;
  } else if ((info.flags & Bit(KPF_ANON)) != 0) {
    ClassifyAnonymous(info, users, use);
  } else if ((info.flags & Bit(KPF_SWAPBACKED)) != 0) {
    ClassifyShmem(info, users, use);
  } else if ((info.flags & kContent) != 0) {
    ClassifyFile(users, use);
  } else {
    ClassifyKernel(frame, info, use);
    return use;
  }
  use.flags = FlagsOf(info, mappings);
  if (users.several || (users.one != nullptr && info.mapped > mappings.size())) use.flags |= PageFlag::Shared;
  return use;
}

PageUse Classifier::OfWindow(const Mapping& mapping) const {
  PageUse use;
  Tell(mapping, use);
  use.page_class = PageClass::Template;
  use.kind = PageKind::Window;
  use.function = Process(mapping).function;
  if (mapping.accessed) use.flags |= PageFlag::Accessed;
  return use;
}

}  // namespace moult::agent
