// SPDX-License-Identifier: Apache-2.0
//
// What is on the medium of a dax: pool: superblock, directory. The directory's checksum is made right, as by
// somebody who wants to be believed: what gets through must not reach outside the pool, and must come out as
// it went in.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "pool/dax/allocate.h"
#include "pool/dax/layout.h"

namespace {

using moult::host::DaxDirectory;
using moult::host::DaxEntry;
using moult::host::DaxGeometry;
using moult::host::DaxRange;

constexpr uint64_t kSumAt = 32;  // in the directory's head

void Superblock(absl::Span<const std::byte> bytes) {
  const auto geometry = moult::host::ParseSuperblock(bytes);
  if (!geometry.ok()) return;
  if (*moult::host::ParseSuperblock(moult::host::SerializeSuperblock(*geometry)) != *geometry) std::abort();
}

void Directory(absl::Span<const std::byte> bytes) {
  static const DaxGeometry geometry = *moult::host::PlanDax(256 * 4096, 4096, 4096);
  std::vector<std::byte> copy(bytes.begin(), bytes.end());
  if (copy.size() < moult::host::kDaxDirectoryHead) return;
  uint64_t generation;
  std::memcpy(&generation, copy.data(), sizeof(generation));
  const uint64_t length = copy.size() - moult::host::kDaxDirectoryHead;
  std::memcpy(copy.data() + 3 * sizeof(uint64_t), &length, sizeof(length));
  moult::image::Sha256 hash;
  hash.Update(copy.data(), kSumAt);
  hash.Update(copy.data() + moult::host::kDaxDirectoryHead, length);
  const auto sum = hash.Finish();
  std::memcpy(copy.data() + kSumAt, sum.data(), sum.size());
  const auto directory = moult::host::ParseDirectory(copy, generation, geometry);
  if (!directory.ok()) return;
  uint64_t used = 0;
  for (const DaxEntry& entry : directory->entries) {
    used += entry.blocks();
    if (entry.bytes(geometry) > entry.blocks() * geometry.block) std::abort();
    for (const DaxRange& range : entry.ranges(geometry)) {
      if (range.at < geometry.first_block() * geometry.block || range.end() > geometry.size) std::abort();
    }
  }
  const uint64_t all = geometry.end_block() - geometry.first_block();
  if (moult::host::CountBlocks(moult::host::FreeRuns(geometry, *directory)) != all - used) std::abort();
  const auto again =
      moult::host::ParseDirectory(moult::host::SerializeDirectory(*directory), generation, geometry);
  if (!again.ok() || again->entries.size() != directory->entries.size()) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  // SAFETY: reads the fuzzer's own buffer as bytes.
  const absl::Span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data + 1), size - 1);
  constexpr void (*kParsers[])(absl::Span<const std::byte>) = {Superblock, Directory};
  kParsers[data[0] % std::size(kParsers)](bytes);
  return 0;
}
