// SPDX-License-Identifier: Apache-2.0
#include "pool/dax/layout.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moult/base/page.h"
#include "moult/base/status.h"
#include "moult/protocol/function_spec.h"
#include "moult/protocol/limits.h"
#include "moult/protocol/parse.h"

namespace moult::host {
namespace {

constexpr char kDaxMagic[8] = {'M', 'O', 'U', 'L', 'T', 'D', 'A', 'X'};
constexpr uint32_t kDaxVersion = 1;
constexpr uint64_t kLargestDax = 1ull << 56;
constexpr uint64_t kMostDaxBlocks = UINT32_MAX;

struct SuperblockBytes {
  char magic[8];
  uint32_t version;
  uint32_t zero;
  uint64_t size, block, align, directory_bytes;
  uint8_t volume[16];
  uint8_t checksum[32];  // of all before it
};
static_assert(sizeof(SuperblockBytes) == 96);

struct HeadBytes {
  uint64_t generation, next_id, count, length;  // length: of what follows
  uint8_t checksum[32];                         // of all before it and of what follows
};
static_assert(sizeof(HeadBytes) == kDaxDirectoryHead);

struct EntryBytes {
  uint64_t id, pages_size, manifest_size, image_size;
  uint8_t digest[32];
  char name[64];  // zeros behind it, if there is room
  char tenant[64];
  uint32_t runs;  // that many RunBytes follow
  uint32_t zero;
};
static_assert(sizeof(EntryBytes) == 200);

struct RunBytes {
  uint32_t first, count;
};
static_assert(sizeof(RunBytes) == 8);

absl::Status DaxDamaged(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("directory: ", what));
}

image::Sha256Digest DirectoryChecksum(absl::Span<const std::byte> bytes) {
  image::Sha256 hash;
  hash.Update(bytes.data(), offsetof(HeadBytes, checksum));
  hash.Update(bytes.data() + sizeof(HeadBytes), bytes.size() - sizeof(HeadBytes));
  return hash.Finish();
}

template <typename T>
bool TakeFrom(absl::Span<const std::byte>* bytes, T* to) {
  if (bytes->size() < sizeof(T)) return false;
  std::memcpy(to, bytes->data(), sizeof(T));
  bytes->remove_prefix(sizeof(T));
  return true;
}

template <typename T>
void AppendTo(std::vector<std::byte>* bytes, const T& value) {
  const size_t at = bytes->size();
  bytes->resize(at + sizeof(T));
  std::memcpy(bytes->data() + at, &value, sizeof(T));
}

std::string FieldText(const char (&field)[64]) { return {field, strnlen(field, sizeof(field))}; }

bool IsPower(uint64_t value) { return value != 0 && (value & (value - 1)) == 0; }

absl::Status CheckSizes(const DaxEntry& entry, const DaxGeometry& geometry) {
  if (entry.pages_size > image::kMaxPagesSize || entry.pages_size % kPage != 0 || entry.manifest_size == 0 ||
      entry.manifest_size > image::kMaxManifestPayload + image::kManifestHeaderSize ||
      entry.image_size > image::kMaxImageSize || entry.manifest_size > geometry.size || entry.image_size > geometry.size) {
    return DaxDamaged(absl::StrCat("entry ", entry.name, ": sizes that no template has"));
  }
  const uint64_t needed = (entry.bytes(geometry) + geometry.block - 1) / geometry.block;
  if (needed == entry.blocks()) return absl::OkStatus();
  return DaxDamaged(absl::StrCat("entry ", entry.name, ": needs ", needed, " blocks, has ", entry.blocks()));
}

absl::StatusOr<DaxEntry> TakeEntry(absl::Span<const std::byte>* bytes, const DaxGeometry& geometry) {
  EntryBytes raw;
  if (!TakeFrom(bytes, &raw)) return DaxDamaged("ends within an entry");
  DaxEntry entry;
  entry.id = raw.id;
  entry.name = FieldText(raw.name);
  entry.tenant = FieldText(raw.tenant);
  std::copy(std::begin(raw.digest), std::end(raw.digest), entry.digest.begin());
  entry.pages_size = raw.pages_size;
  entry.manifest_size = raw.manifest_size;
  entry.image_size = raw.image_size;
  if (!rpc::IsName(entry.name))
    return DaxDamaged(absl::StrCat("entry ", entry.id, ": no name of a template"));
  if (raw.runs > bytes->size() / sizeof(RunBytes)) return DaxDamaged("ends within an entry");
  for (uint32_t i = 0; i < raw.runs; ++i) {
    RunBytes run;
    if (!TakeFrom(bytes, &run)) return DaxDamaged("ends within an entry");
    if (run.count == 0 || run.first < geometry.first_block() || run.first >= geometry.end_block() ||
        run.count > geometry.end_block() - run.first) {
      return DaxDamaged(absl::StrCat("entry ", entry.name, ": has blocks that there are not"));
    }
    entry.runs.push_back({run.first, run.count});
  }
  MOULT_RETURN_IF_ERROR(CheckSizes(entry, geometry));
  return entry;
}

// No name, id or block twice.
absl::Status CheckApart(const DaxDirectory& directory) {
  std::set<std::string> names;
  std::set<uint64_t> ids;
  std::vector<DaxRun> runs;
  for (const DaxEntry& entry : directory.entries) {
    if (!names.insert(entry.name).second)
      return DaxDamaged(absl::StrCat("entry ", entry.name, ": is there twice"));
    if (entry.id >= directory.next_id || !ids.insert(entry.id).second)
      return DaxDamaged(absl::StrCat("entry ", entry.name, ": an id that was not given to it"));
    runs.insert(runs.end(), entry.runs.begin(), entry.runs.end());
  }
  std::sort(runs.begin(), runs.end(), [](const DaxRun& a, const DaxRun& b) { return a.first < b.first; });
  for (size_t i = 1; i < runs.size(); ++i) {
    if (runs[i - 1].first + runs[i - 1].count > runs[i].first)
      return DaxDamaged(absl::StrCat("block ", runs[i].first, ": has two owners"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<DaxGeometry> PlanDax(uint64_t size, uint64_t block, uint64_t align) {
  if (!IsPower(block) || !IsPower(align) || align < kPage || block % align != 0 || size > kLargestDax ||
      size / block > kMostDaxBlocks) {
    return absl::InvalidArgumentError(
        absl::StrCat("no layout for ", size, " bytes in blocks of ", block, ", aligned to ", align));
  }
  DaxGeometry geometry;
  geometry.size = size / block * block;
  geometry.block = block;
  geometry.align = align;
  geometry.directory_bytes =
      AlignUp(sizeof(HeadBytes) + size / block * (sizeof(EntryBytes) + sizeof(RunBytes)), kPage);
  if (geometry.first_block() < geometry.end_block()) return geometry;
  return absl::InvalidArgumentError(absl::StrCat("too small: has ", size, " bytes, needs ",
                                                 (geometry.first_block() + 1) * block, " at least"));
}

uint64_t DaxEntry::blocks() const {
  uint64_t count = 0;
  for (const DaxRun& run : runs) count += run.count;
  return count;
}

std::vector<DaxRange> DaxEntry::ranges(const DaxGeometry& geometry) const {
  std::vector<DaxRange> ranges;
  for (const DaxRun& run : runs) ranges.push_back({run.first * geometry.block, run.count * geometry.block});
  return ranges;
}

const DaxEntry* DaxDirectory::Find(const std::string& name) const {
  const auto found =
      std::find_if(entries.begin(), entries.end(), [&](const DaxEntry& entry) { return entry.name == name; });
  return found == entries.end() ? nullptr : &*found;
}

std::vector<std::byte> SerializeSuperblock(const DaxGeometry& geometry) {
  SuperblockBytes raw{};
  std::memcpy(raw.magic, kDaxMagic, sizeof(kDaxMagic));
  raw.version = kDaxVersion;
  raw.size = geometry.size;
  raw.block = geometry.block;
  raw.align = geometry.align;
  raw.directory_bytes = geometry.directory_bytes;
  std::copy(geometry.volume.begin(), geometry.volume.end(), raw.volume);
  // SAFETY: plain bytes without padding.
  const std::string_view before(reinterpret_cast<const char*>(&raw), offsetof(SuperblockBytes, checksum));
  const image::Sha256Digest sum = image::Sha256Of(before);
  std::copy(sum.begin(), sum.end(), raw.checksum);
  std::vector<std::byte> bytes;
  AppendTo(&bytes, raw);
  return bytes;
}

absl::StatusOr<DaxGeometry> ParseSuperblock(absl::Span<const std::byte> bytes) {
  const bool zero = std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
  if (zero) return absl::NotFoundError("is not formatted");
  SuperblockBytes raw;
  if (!TakeFrom(&bytes, &raw) || std::memcmp(raw.magic, kDaxMagic, sizeof(kDaxMagic)) != 0) {
    return absl::FailedPreconditionError("holds something that is no pool");
  }
  // Before the checksum, which may be another one there.
  if (raw.version != kDaxVersion) {
    return absl::FailedPreconditionError(absl::StrCat("is a pool of version ", raw.version,
                                                      ", this library knows ", kDaxVersion,
                                                      "; use the one that made it"));
  }
  // SAFETY: as in SerializeSuperblock.
  const std::string_view before(reinterpret_cast<const char*>(&raw), offsetof(SuperblockBytes, checksum));
  const image::Sha256Digest sum = image::Sha256Of(before);
  if (std::memcmp(sum.data(), raw.checksum, sizeof(raw.checksum)) != 0) {
    return absl::DataLossError("superblock: does not match its checksum");
  }
  auto planned = PlanDax(raw.size, raw.block, raw.align);
  if (!planned.ok() || planned->size != raw.size || planned->directory_bytes != raw.directory_bytes) {
    return absl::DataLossError("superblock: sizes that do not go together");
  }
  std::copy(std::begin(raw.volume), std::end(raw.volume), planned->volume.begin());
  return planned;
}

std::vector<std::byte> SerializeDirectory(const DaxDirectory& directory) {
  std::vector<std::byte> bytes(sizeof(HeadBytes));
  for (const DaxEntry& entry : directory.entries) {
    EntryBytes raw{};
    raw.id = entry.id;
    raw.pages_size = entry.pages_size;
    raw.manifest_size = entry.manifest_size;
    raw.image_size = entry.image_size;
    std::copy(entry.digest.begin(), entry.digest.end(), raw.digest);
    std::memcpy(raw.name, entry.name.data(), std::min(entry.name.size(), sizeof(raw.name)));
    std::memcpy(raw.tenant, entry.tenant.data(), std::min(entry.tenant.size(), sizeof(raw.tenant)));
    raw.runs = static_cast<uint32_t>(entry.runs.size());
    AppendTo(&bytes, raw);
    for (const DaxRun& run : entry.runs)
      AppendTo(&bytes, RunBytes{static_cast<uint32_t>(run.first), static_cast<uint32_t>(run.count)});
  }
  HeadBytes head{directory.generation,
                 directory.next_id,
                 directory.entries.size(),
                 bytes.size() - sizeof(HeadBytes),
                 {}};
  std::memcpy(bytes.data(), &head, sizeof(head));
  const image::Sha256Digest sum = DirectoryChecksum(bytes);
  std::copy(sum.begin(), sum.end(), head.checksum);
  std::memcpy(bytes.data(), &head, sizeof(head));
  return bytes;
}

uint64_t DirectoryLength(absl::Span<const std::byte> bytes, const DaxGeometry& geometry) {
  HeadBytes head;
  if (!TakeFrom(&bytes, &head)) return 0;
  return sizeof(head) + std::min(head.length, geometry.directory_bytes - sizeof(head));
}

absl::StatusOr<DaxDirectory> ParseDirectory(absl::Span<const std::byte> bytes, uint64_t generation,
                                            const DaxGeometry& geometry) {
  const absl::Span<const std::byte> all = bytes;
  HeadBytes head;
  if (!TakeFrom(&bytes, &head)) return DaxDamaged("ends within its head");
  if (head.generation != generation) {
    return DaxDamaged(absl::StrCat("is of generation ", head.generation, ", should be ", generation));
  }
  if (head.length != bytes.size()) return DaxDamaged("has another length than its head says");
  const image::Sha256Digest sum = DirectoryChecksum(all);
  if (std::memcmp(sum.data(), head.checksum, sizeof(head.checksum)) != 0)
    return DaxDamaged("does not match its checksum");
  DaxDirectory directory{head.generation, head.next_id, {}};
  for (uint64_t i = 0; i < head.count; ++i) {
    MOULT_ASSIGN_OR_RETURN(DaxEntry entry, TakeEntry(&bytes, geometry));
    directory.entries.push_back(std::move(entry));
  }
  if (!bytes.empty()) return DaxDamaged("has more than its entries");
  MOULT_RETURN_IF_ERROR(CheckApart(directory));
  return directory;
}

}  // namespace moult::host
