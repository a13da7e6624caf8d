// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_TESTS_UNIT_FEW_MAPS_H_
#define MOULT_TESTS_UNIT_FEW_MAPS_H_

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <fstream>

#include "is_sanitized.h"

namespace moult::testing {

inline constexpr size_t kMapPage = 4096;

inline size_t MostMaps() {
  size_t most = 0;
  std::ifstream("/proc/sys/vm/max_map_count") >> most;
  return most;
}

// While it lives, this process is at vm.max_map_count: it may make `left` mappings more. To cut one in two the kernel wants one
// more than to make one. A limit of millions is not tried: then full() is false.
class FewMaps {
 public:
  explicit FewMaps(size_t left) : bytes_((MostMaps() + 64) * kMapPage) {
    if (MostMaps() > 1'000'000) return;
    void* const at = mmap(nullptr, bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return;
    start_ = static_cast<std::byte*>(at);
    // Each that is not like its neighbours is one, and cuts what it lies in.
    size_t next = 1;
    while ((next + 2) * kMapPage < bytes_ && mprotect(start_ + next * kMapPage, kMapPage, PROT_READ) == 0) next += 2;
    // What is shared is never one with its neighbour.
    for (void*& each : shared_) {
      each = mmap(nullptr, kMapPage, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
      full_ = each == MAP_FAILED;
      if (full_) break;
    }
    for (size_t i = 1; i <= left; ++i) munmap(start_ + (next - 2 * i) * kMapPage, kMapPage);
  }
  ~FewMaps() {
    if (start_ == nullptr) return;
    munmap(start_, bytes_);
    for (void* const each : shared_) {
      if (each != nullptr && each != MAP_FAILED) munmap(each, kMapPage);
    }
  }
  FewMaps(const FewMaps&) = delete;
  FewMaps& operator=(const FewMaps&) = delete;

  bool full() const { return full_; }

 private:
  const size_t bytes_;
  std::byte* start_ = nullptr;
  void* shared_[8] = {};
  bool full_ = false;
};

}  // namespace moult::testing

#endif  // MOULT_TESTS_UNIT_FEW_MAPS_H_
