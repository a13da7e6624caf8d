// SPDX-License-Identifier: Apache-2.0
#include <sys/random.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "pool/dax/volume.h"

namespace moult::host {
namespace {

// What file systems, partition tables and pools begin or end with lies here.
constexpr uint64_t kLookedAt = 2 << 20;

bool IsBlank(absl::Span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte one) { return one == std::byte{0}; });
}

absl::Status CheckNothingIsThere(DaxMedium* medium) {
  const absl::Span<const std::byte> bytes = medium->bytes();
  const uint64_t looked_at = std::min<uint64_t>(kLookedAt, bytes.size());
  if (IsBlank(bytes.first(looked_at)) && IsBlank(bytes.last(looked_at))) return absl::OkStatus();
  std::string what = "is not empty";
  if (const auto volume = DaxVolume::Open(medium); volume.ok()) {
    const auto directory = volume->Read();
    what = absl::StrCat("holds a pool", directory.ok()
                                            ? absl::StrCat(" of ", directory->entries.size(), " templates")
                                            : " that is damaged");
  }
  return absl::AlreadyExistsError(
      absl::StrCat("format ", medium->path(), ": ", what, "; give --force if all of it may go"));
}

absl::Status CheckNobodyUsesIt(const DaxMedium& medium) {
  // Without the first bytes, which are the writer's, who is this one.
  MOULT_ASSIGN_OR_RETURN(const auto held,
                         medium.Held({kDaxDirectoryAt, medium.bytes().size() - kDaxDirectoryAt}));
  if (held.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("format ", medium.path(), ": templates of it are in use; detach their functions first"));
}

}  // namespace

absl::Status FormatDax(DaxMedium* medium, const DaxFormat& format, DaxMedium::Clock::time_point deadline) {
  const std::string context = absl::StrCat("format ", medium->path());
  const uint64_t there = medium->bytes().size();
  if (medium->align() > kDaxBlock) {
    return absl::FailedPreconditionError(absl::StrCat(
        context, ": has an alignment of ", medium->align(), " bytes, windows have ", kDaxBlock,
        "; give the device that one (daxctl reconfigure-device, ndctl create-namespace: --align=2M)"));
  }
  if (format.size > there) {
    return absl::InvalidArgumentError(absl::StrCat(context, ": has ", there, " bytes, not ", format.size));
  }
  auto planned = PlanDax(format.size != 0 ? format.size : there, format.block, medium->align());
  if (!planned.ok()) return Annotate(planned.status(), context);
  DaxGeometry geometry = *planned;
  if (getrandom(geometry.volume.data(), geometry.volume.size(), 0) != ssize_t{sizeof(geometry.volume)})
    return ErrnoStatus(absl::StrCat(context, ": getrandom"));

  MOULT_RETURN_IF_ERROR(medium->LockForWriting(deadline));
  if (!format.force) MOULT_RETURN_IF_ERROR(CheckNothingIsThere(medium));
  MOULT_RETURN_IF_ERROR(CheckNobodyUsesIt(*medium));
  // No pool from here on until the superblock is whole; who took a template meanwhile is seen now, who comes
  // later finds none.
  const std::vector<std::byte> blank(kDaxSuperblockBytes);
  const std::vector<std::byte> old(medium->bytes().begin(), medium->bytes().begin() + kDaxSuperblockBytes);
  medium->Store(0, blank);
  MOULT_RETURN_IF_ERROR(medium->Persist({0, kDaxSuperblockBytes}));
  if (const absl::Status unused = CheckNobodyUsesIt(*medium); !unused.ok()) {
    medium->Store(0, old);
    MOULT_RETURN_IF_ERROR(medium->Persist({0, kDaxSuperblockBytes}));
    return unused;
  }
  DaxDirectory empty;
  empty.generation = 1;
  const std::vector<std::byte> directory = SerializeDirectory(empty);
  medium->Store(geometry.directory_at(empty.generation), directory);
  medium->StoreWord(kDaxWordAt, empty.generation);
  MOULT_RETURN_IF_ERROR(medium->Persist({kDaxWordAt, sizeof(uint64_t)}));
  MOULT_RETURN_IF_ERROR(medium->Persist({geometry.directory_at(empty.generation), directory.size()}));
  const std::vector<std::byte> superblock = SerializeSuperblock(geometry);
  medium->Store(0, superblock);
  return medium->Persist({0, superblock.size()});
}

}  // namespace moult::host
