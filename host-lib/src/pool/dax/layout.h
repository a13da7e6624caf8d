// SPDX-License-Identifier: Apache-2.0
//
// What is on the medium, version 1, little endian. Pure: bytes to structures and back; nothing in the bytes
// is trusted.
//
//   0                superblock, written once, checksummed
//   4096             the commit word: a generation g, of 8 bytes
//   8192             directory 0, directory_bytes long; then directory 1
//   a whole block    blocks of templates, to the end
//
// The templates are those of directory g mod 2, which has g in its head and a checksum over all. A change is
// written to the other one, persisted, and becomes true by one store of g + 1 into the commit word. So what
// the word names is whole at every instant, and what it does not name is nobody's: blocks that no entry of
// that directory has are free, whatever is in them.
//
// A template's blocks, one behind the other: its pages; zeros up to a multiple of `align`, so that who maps
// the pages sees nothing else; manifest; image.
#ifndef MOULT_HOST_POOL_DAX_LAYOUT_H_
#define MOULT_HOST_POOL_DAX_LAYOUT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "moult/protocol/digest.h"
#include "pool/dax/medium.h"

namespace moult::host {

inline constexpr uint64_t kDaxBlock = 2 << 20;
inline constexpr uint64_t kDaxSuperblockBytes = 4096;
inline constexpr uint64_t kDaxWordAt = 4096;
inline constexpr uint64_t kDaxDirectoryAt = 8192;

struct DaxGeometry {
  uint64_t size = 0;   // a multiple of block
  uint64_t block = 0;  // a power of two, and a multiple of align
  uint64_t align = 0;
  uint64_t directory_bytes = 0;      // of each
  std::array<uint8_t, 16> volume{};  // tells this pool from any other
  uint64_t directory_at(uint64_t generation) const {
    return kDaxDirectoryAt + generation % 2 * directory_bytes;
  }
  uint64_t first_block() const { return (kDaxDirectoryAt + 2 * directory_bytes + block - 1) / block; }
  uint64_t end_block() const { return size / block; }
  bool operator==(const DaxGeometry&) const = default;
};

// kInvalidArgument: too small. The directories have room for as many entries and runs as there can be.
absl::StatusOr<DaxGeometry> PlanDax(uint64_t size, uint64_t block, uint64_t align);

struct DaxRun {
  uint64_t first;  // block
  uint64_t count;
  bool operator==(const DaxRun&) const = default;
};

struct DaxEntry {
  uint64_t id = 0;  // never used again in this volume
  std::string name;
  std::string tenant;
  image::Sha256Digest digest{};  // of the manifest
  uint64_t pages_size = 0;
  uint64_t manifest_size = 0;
  uint64_t image_size = 0;
  std::vector<DaxRun> runs;

  uint64_t manifest_at(const DaxGeometry& geometry) const {
    return (pages_size + geometry.align - 1) / geometry.align * geometry.align;
  }
  uint64_t image_at(const DaxGeometry& geometry) const { return manifest_at(geometry) + manifest_size; }
  uint64_t bytes(const DaxGeometry& geometry) const { return image_at(geometry) + image_size; }
  uint64_t blocks() const;
  std::vector<DaxRange> ranges(const DaxGeometry& geometry) const;
};

struct DaxDirectory {
  uint64_t generation = 0;
  uint64_t next_id = 1;
  std::vector<DaxEntry> entries;
  const DaxEntry* Find(const std::string& name) const;
};

std::vector<std::byte> SerializeSuperblock(const DaxGeometry& geometry);
// kNotFound: there is none, all is zero; kFailedPrecondition: something else, or a newer version; kDataLoss.
absl::StatusOr<DaxGeometry> ParseSuperblock(absl::Span<const std::byte> bytes);

std::vector<std::byte> SerializeDirectory(const DaxDirectory& directory);
// `bytes`: what there is of it. kDataLoss: it is not this generation's, or damaged.
absl::StatusOr<DaxDirectory> ParseDirectory(absl::Span<const std::byte> bytes, uint64_t generation,
                                            const DaxGeometry& geometry);
// How many bytes of `head`, the first 64, are the directory's; what is too much is cut.
inline constexpr uint64_t kDaxDirectoryHead = 64;
uint64_t DirectoryLength(absl::Span<const std::byte> head, const DaxGeometry& geometry);

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_DAX_LAYOUT_H_
