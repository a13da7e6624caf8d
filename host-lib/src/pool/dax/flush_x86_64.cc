// SPDX-License-Identifier: Apache-2.0
#include <cpuid.h>
#include <immintrin.h>

#include "pool/dax/flush.h"

namespace moult::host {
namespace {

constexpr uint64_t kLine = 64;

enum class Flush { kWriteBack, kOptimized, kPlain };

Flush BestFlush() {
  constexpr unsigned kClflushopt = 1u << 23;
  constexpr unsigned kClwb = 1u << 24;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return Flush::kPlain;
  if ((b & kClwb) != 0) return Flush::kWriteBack;
  return (b & kClflushopt) != 0 ? Flush::kOptimized : Flush::kPlain;
}

__attribute__((target("clwb"))) void WriteBack(char* at, const char* end) {
  for (; at < end; at += kLine) _mm_clwb(at);
}
__attribute__((target("clflushopt"))) void FlushOptimized(char* at, const char* end) {
  for (; at < end; at += kLine) _mm_clflushopt(at);
}
void FlushPlain(const char* at, const char* end) {
  for (; at < end; at += kLine) _mm_clflush(at);
}

}  // namespace

void FlushLines(const std::byte* at, uint64_t length) {
  static const Flush best = BestFlush();
  // SAFETY: flushing changes no memory; the intrinsics only take a pointer that is not const.
  char* const first = reinterpret_cast<char*>(reinterpret_cast<uintptr_t>(at) & ~(kLine - 1));
  const char* const end = reinterpret_cast<const char*>(at) + length;
  if (best == Flush::kWriteBack)
    WriteBack(first, end);
  else if (best == Flush::kOptimized)
    FlushOptimized(first, end);
  else
    FlushPlain(first, end);
  _mm_sfence();
}

}  // namespace moult::host
