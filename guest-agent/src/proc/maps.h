// SPDX-License-Identifier: Apache-2.0
//
// /proc/PID/maps and /proc/PID/smaps: the mappings of a process.
#ifndef MOULT_PROC_MAPS_H_
#define MOULT_PROC_MAPS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace moult::proc {

// One line of maps. Addresses are those of the process; `offset` is in bytes.
struct MapsEntry {
  uint64_t start = 0;
  uint64_t end = 0;
  bool read = false;
  bool write = false;
  bool exec = false;
  bool shared = false;
  uint64_t offset = 0;
  uint32_t dev_major = 0;
  uint32_t dev_minor = 0;
  uint64_t inode = 0;
  // A path with "\012" turned back into newline, or a name such as "[heap]" or "[anon:x]"; empty for plain
  // anonymous memory. The kernel does not escape '\', so a file whose name really holds the four characters
  // \012 reads the same as one with a newline: whoever opens the path has to compare dev and inode.
  std::string path;
  // " (deleted)" was at the end of `path` and has been cut off. A file that is still there but is called
  // "x (deleted)" looks the same; again dev and inode tell.
  bool deleted = false;
};

// Bits of SmapsEntry::vm_flags, by the two letters in the VmFlags line (filesystems/proc.rst, up to 6.18).
enum VmFlag : uint64_t {
  kVmRead = 1ull << 0,          // rd
  kVmWrite = 1ull << 1,         // wr
  kVmExec = 1ull << 2,          // ex
  kVmShared = 1ull << 3,        // sh
  kVmMayRead = 1ull << 4,       // mr
  kVmMayWrite = 1ull << 5,      // mw
  kVmMayExec = 1ull << 6,       // me
  kVmMayShare = 1ull << 7,      // ms
  kVmGrowsDown = 1ull << 8,     // gd
  kVmPfnMap = 1ull << 9,        // pf
  kVmDenyWrite = 1ull << 10,    // dw (gone since 5.16)
  kVmLocked = 1ull << 11,       // lo
  kVmIo = 1ull << 12,           // io
  kVmSeqRead = 1ull << 13,      // sr
  kVmRandRead = 1ull << 14,     // rr
  kVmDontCopy = 1ull << 15,     // dc
  kVmDontExpand = 1ull << 16,   // de
  kVmLockOnFault = 1ull << 17,  // lf (since 6.12; set together with lo)
  kVmAccount = 1ull << 18,      // ac
  kVmNoReserve = 1ull << 19,    // nr
  kVmHugeTlb = 1ull << 20,      // ht
  kVmSync = 1ull << 21,         // sf
  kVmArch1 = 1ull << 22,        // ar
  kVmWipeOnFork = 1ull << 23,   // wf
  kVmDontDump = 1ull << 24,     // dd
  kVmSoftDirty = 1ull << 25,    // sd
  kVmMixedMap = 1ull << 26,     // mm
  kVmHugePage = 1ull << 27,     // hg
  kVmNoHugePage = 1ull << 28,   // nh
  kVmMergeable = 1ull << 29,    // mg
  kVmUffdMissing = 1ull << 30,  // um
  kVmUffdWp = 1ull << 31,       // uw
  kVmUffdMinor = 1ull << 32,    // ui
  kVmBti = 1ull << 33,          // bt
  kVmMte = 1ull << 34,          // mt
  kVmShadowStack = 1ull << 35,  // ss
  kVmSealed = 1ull << 36,       // sl
  kVmDroppable = 1ull << 37,    // dp
  kVmMaybeGuard = 1ull << 38,   // gu
  kVmMpx = 1ull << 39,          // mp (gone since 5.6)
  kVmNonLinear = 1ull << 40,    // nl (gone since 4.0)
};

// The bit of a two-letter code, 0 for one that is not known here.
uint64_t VmFlagBit(std::string_view code);

// One mapping of smaps. Sizes in bytes.
struct SmapsEntry : MapsEntry {
  uint64_t rss = 0;
  uint64_t pss = 0;
  uint64_t shared_clean = 0;
  uint64_t shared_dirty = 0;
  uint64_t private_clean = 0;
  uint64_t private_dirty = 0;
  uint64_t referenced = 0;
  uint64_t anonymous = 0;
  uint64_t lazy_free = 0;
  uint64_t anon_huge_pages = 0;
  uint64_t shared_hugetlb = 0;
  uint64_t private_hugetlb = 0;
  uint64_t swap = 0;
  uint64_t locked = 0;
  uint64_t kernel_page_size = 0;
  uint64_t mmu_page_size = 0;
  int protection_key = 0;
  uint64_t vm_flags = 0;  // VmFlag bits

  bool Has(VmFlag flag) const { return (vm_flags & flag) != 0; }
};

// In the order of the file. Only a stopped process gives a list that is rising and disjoint for sure: the
// kernel lets go of its locks between two read(2) calls.
absl::StatusOr<std::vector<MapsEntry>> ParseMaps(std::string_view text);

// Every entry must have KernelPageSize and VmFlags (since Linux 3.8): one without was cut short.
absl::StatusOr<std::vector<SmapsEntry>> ParseSmaps(std::string_view text);

}  // namespace moult::proc

#endif  // MOULT_PROC_MAPS_H_
