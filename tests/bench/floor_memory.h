// SPDX-License-Identifier: Apache-2.0
//
// The address space of a template made by bare system calls: the same mappings, packed, with nothing around them.
#ifndef MOULT_BENCH_FLOOR_MEMORY_H_
#define MOULT_BENCH_FLOOR_MEMORY_H_

#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>
#include <string>
#include <vector>

namespace moult::bench {

class BareMemory {
 public:
  // Reads the template and opens what it maps. As all here it dies with a message when something fails.
  explicit BareMemory(const std::string& dir);
  // In this order, in the process that is to have the memory.
  void Map() const;
  void Fill() const;
  void Protect() const;

 private:
  struct Mapping {
    char* at;
    size_t length;
    int prot;
    int flags;
    int fd;
    off_t offset;
    bool protect_later;  // has content, and is not writable
  };
  // One preadv.
  struct Batch {
    off_t offset;
    size_t length = 0;
    std::vector<iovec> parts;
  };

  std::vector<Mapping> mappings_;
  std::vector<Batch> batches_;
  int pages_ = -1;
};

}  // namespace moult::bench

#endif  // MOULT_BENCH_FLOOR_MEMORY_H_
