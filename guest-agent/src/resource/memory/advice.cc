// SPDX-License-Identifier: Apache-2.0
#include "resource/memory/advice.h"

#include <sys/mman.h>

namespace moult::engine {
namespace {

struct Advice {
  proc::VmFlag flag;
  uint8_t advice;
};
constexpr Advice kAdvice[] = {
    {proc::kVmSeqRead, MADV_SEQUENTIAL},   {proc::kVmRandRead, MADV_RANDOM},   {proc::kVmDontCopy, MADV_DONTFORK},
    {proc::kVmWipeOnFork, MADV_WIPEONFORK}, {proc::kVmDontDump, MADV_DONTDUMP}, {proc::kVmHugePage, MADV_HUGEPAGE},
    {proc::kVmNoHugePage, MADV_NOHUGEPAGE}, {proc::kVmMergeable, MADV_MERGEABLE},
};

}  // namespace

std::vector<uint8_t> AdviceOf(const proc::SmapsEntry& entry) {
  std::vector<uint8_t> advice;
  for (const Advice& known : kAdvice) {
    if (!entry.Has(known.flag)) continue;
    // The kernel sets these itself on special mappings, hugetlb among them.
    if (entry.Has(proc::kVmHugeTlb) && known.advice != MADV_DONTFORK) continue;
    advice.push_back(known.advice);
  }
  return advice;
}

}  // namespace moult::engine
