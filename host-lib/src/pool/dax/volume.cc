// SPDX-License-Identifier: Apache-2.0
#include "pool/dax/volume.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "moult/protocol/function_spec.h"
#include "moult/protocol/limits.h"
#include "pool/dax/allocate.h"

namespace moult::host {
namespace {

constexpr uint64_t kDaxStep = 4 << 20;

uint64_t LoadWord(const DaxMedium& medium) {
  // SAFETY: aligned, and within the medium, which is larger than any superblock says that it must be. Other
  // processes store it as a word.
  return __atomic_load_n(reinterpret_cast<const uint64_t*>(medium.bytes().data() + kDaxWordAt),
                         __ATOMIC_SEQ_CST);
}

std::string OfPool(const DaxMedium& medium) { return absl::StrCat("pool on ", medium.path()); }

// Puts bytes into the blocks of a template, one behind the other.
class BlockWriter {
 public:
  BlockWriter(DaxMedium* medium, std::vector<DaxRange> ranges)
      : medium_(medium), ranges_(std::move(ranges)) {}

  void Put(absl::Span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const DaxRange& range = ranges_[range_];
      const uint64_t step = std::min<uint64_t>(bytes.size(), range.length - in_range_);
      medium_->Store(range.at + in_range_, bytes.first(step));
      bytes.remove_prefix(step);
      in_range_ += step;
      if (in_range_ < range.length) continue;
      in_range_ = 0;
      ++range_;
    }
  }
  void Put(std::string_view text) {
    // SAFETY: any bytes may be looked at as such.
    Put({reinterpret_cast<const std::byte*>(text.data()), text.size()});
  }
  // All that was put so far.
  absl::Status Persist() {
    for (size_t i = 0; i < range_; ++i) MOULT_RETURN_IF_ERROR(medium_->Persist(ranges_[i]));
    return in_range_ == 0 ? absl::OkStatus() : medium_->Persist({ranges_[range_].at, in_range_});
  }

 private:
  DaxMedium* const medium_;
  const std::vector<DaxRange> ranges_;
  size_t range_ = 0;
  uint64_t in_range_ = 0;
};

}  // namespace

absl::StatusOr<DaxVolume> DaxVolume::Open(DaxMedium* medium) {
  const absl::Span<const std::byte> bytes = medium->bytes();
  auto geometry = bytes.size() > kDaxDirectoryAt ? ParseSuperblock(bytes.first(kDaxSuperblockBytes))
                                                 : absl::FailedPreconditionError("is too small to be one");
  if (absl::IsNotFound(geometry.status())) {
    return absl::NotFoundError(absl::StrCat(OfPool(*medium), ": ", geometry.status().message(),
                                            "; moultctl pool format dax:", medium->path()));
  }
  if (!geometry.ok()) return Annotate(geometry.status(), OfPool(*medium));
  if (geometry->size > bytes.size()) {
    return absl::DataLossError(absl::StrCat(OfPool(*medium), ": was formatted with ", geometry->size,
                                            " bytes, there are ", bytes.size(), " now"));
  }
  if (geometry->align % medium->align() != 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        OfPool(*medium), ": was formatted for an alignment of ", geometry->align, ", the device has ",
        medium->align(), " now; give it the old one (daxctl reconfigure-device --align), or format it"));
  }
  return DaxVolume(medium, *geometry);
}

absl::Status DaxVolume::CheckSame() const {
  const auto now = ParseSuperblock(medium_->bytes().first(kDaxSuperblockBytes));
  if (now.ok() && *now == geometry_) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(OfPool(*medium_), ": was formatted meanwhile; open it again"));
}

absl::StatusOr<DaxDirectory> DaxVolume::Read() const {
  for (;;) {
    MOULT_RETURN_IF_ERROR(CheckSame());
    const uint64_t generation = LoadWord(*medium_);
    const auto there =
        medium_->bytes().subspan(geometry_.directory_at(generation), geometry_.directory_bytes);
    // Copied before it is looked at: the writer after next writes here.
    std::vector<std::byte> bytes(there.begin(), there.begin() + kDaxDirectoryHead);
    const uint64_t length = DirectoryLength(bytes, geometry_);
    bytes.assign(there.begin(), there.begin() + static_cast<std::ptrdiff_t>(length));
    auto directory = ParseDirectory(bytes, generation, geometry_);
    // Nobody writes to it before the word names the other one, so with the same word it is damaged.
    if (directory.ok()) return directory;
    if (LoadWord(*medium_) != generation) continue;
    MOULT_RETURN_IF_ERROR(CheckSame());
    return Annotate(directory.status(), OfPool(*medium_));
  }
}

absl::StatusOr<DaxEntry> DaxVolume::Take(const std::string& name, Clock::time_point deadline) {
  for (;;) {
    MOULT_ASSIGN_OR_RETURN(const DaxDirectory directory, Read());
    const DaxEntry* const entry = directory.Find(name);
    if (entry == nullptr) {
      return absl::NotFoundError(
          absl::StrCat(OfPool(*medium_), ": no template ", name, "; list it to see what is"));
    }
    MOULT_RETURN_IF_ERROR(medium_->Hold(entry->ranges(geometry_)));
    MOULT_ASSIGN_OR_RETURN(const DaxDirectory again, Read());
    const DaxEntry* const still = again.Find(name);
    if (still != nullptr && still->id == entry->id) return *still;
    // Another one has the name now. What is held in vain is given back with the medium.
    if (Clock::now() >= deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat(OfPool(*medium_), ": template ", name, ": keeps changing"));
    }
  }
}

absl::StatusOr<std::vector<DaxRun>> DaxVolume::Free(const DaxDirectory& directory) const {
  std::vector<DaxRun> free;
  for (const DaxRun& run : FreeRuns(geometry_, directory)) {
    MOULT_ASSIGN_OR_RETURN(const auto held,
                           medium_->Held({run.first * geometry_.block, run.count * geometry_.block}));
    const std::vector<DaxRun> left = WithoutHeld({run}, held, geometry_.block);
    free.insert(free.end(), left.begin(), left.end());
  }
  return free;
}

absl::StatusOr<DaxSpace> DaxVolume::Space() const {
  MOULT_ASSIGN_OR_RETURN(const DaxDirectory directory, Read());
  MOULT_ASSIGN_OR_RETURN(const std::vector<DaxRun> free, Free(directory));
  const uint64_t total = geometry_.end_block() - geometry_.first_block();
  const uint64_t unused = CountBlocks(FreeRuns(geometry_, directory));
  return DaxSpace{total * geometry_.block, (total - unused) * geometry_.block,
                  (unused - CountBlocks(free)) * geometry_.block};
}

absl::Status DaxVolume::WriteContent(const DaxEntry& entry, const DaxContent& content,
                                     Clock::time_point deadline, const TransferProgress& progress) {
  BlockWriter writer(medium_, entry.ranges(geometry_));
  std::vector<std::byte> buffer(std::min(content.pages_size, kDaxStep));
  for (uint64_t at = 0; at < content.pages_size; at += kDaxStep) {
    if (Clock::now() >= deadline) return absl::DeadlineExceededError("not written in time");
    const auto piece = absl::MakeSpan(buffer).first(std::min(kDaxStep, content.pages_size - at));
    MOULT_RETURN_IF_ERROR(content.read_pages(at, piece));
    writer.Put(piece);
    if (progress) progress(at + piece.size(), content.pages_size);
  }
  writer.Put(std::vector<std::byte>(entry.manifest_at(geometry_) - entry.pages_size));
  writer.Put(content.manifest);
  writer.Put(content.image);
  return writer.Persist();
}

absl::Status DaxVolume::BeginWriting(Clock::time_point deadline) {
  MOULT_RETURN_IF_ERROR(medium_->LockForWriting(deadline));
  // A writer that was killed may have stored the word, or the superblock, and not persisted it. The directory
  // that is written next is the one that a power cut would go back to then. Stored anew, since after an msync
  // that failed the kernel takes the page for written.
  uint64_t word = 0;
  std::memcpy(&word, medium_->bytes().data() + kDaxWordAt, sizeof(word));
  medium_->StoreWord(kDaxWordAt, word);
  return medium_->Persist({0, kDaxDirectoryAt});
}

absl::Status DaxVolume::Commit(DaxDirectory directory) {
  ++directory.generation;
  const std::vector<std::byte> bytes = SerializeDirectory(directory);
  const uint64_t at = geometry_.directory_at(directory.generation);
  if (bytes.size() > geometry_.directory_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(OfPool(*medium_), ": the directory is full"));
  }
  // What could not be read again would be the end of all templates.
  MOULT_RETURN_IF_ERROR(
      Annotate(ParseDirectory(bytes, directory.generation, geometry_).status(), OfPool(*medium_)));
  medium_->Store(at, bytes);
  MOULT_RETURN_IF_ERROR(medium_->Persist({at, bytes.size()}));
  medium_->StoreWord(kDaxWordAt, directory.generation);
  return medium_->Persist({kDaxWordAt, sizeof(uint64_t)});
}

absl::Status DaxVolume::Add(const DaxContent& content, Clock::time_point deadline, const TransferProgress& progress) {
  const std::string context = absl::StrCat(OfPool(*medium_), ": add ", content.name);
  if (!rpc::IsName(content.name))
    return absl::InvalidArgumentError(absl::StrCat(context, ": is no name of a template"));
  if (content.tenant.size() > image::kMaxTenant)
    return absl::InvalidArgumentError(absl::StrCat(context, ": tenant: too long"));
  MOULT_RETURN_IF_ERROR(BeginWriting(deadline));
  MOULT_ASSIGN_OR_RETURN(DaxDirectory directory, Read());
  if (directory.Find(content.name) != nullptr) {
    return absl::AlreadyExistsError(
        absl::StrCat(context, ": is there already; remove it first, or take another name"));
  }
  DaxEntry entry;
  entry.id = directory.next_id++;
  entry.name = content.name;
  entry.tenant = content.tenant;
  entry.digest = image::Sha256Of(content.manifest);
  entry.pages_size = content.pages_size;
  entry.manifest_size = content.manifest.size();
  entry.image_size = content.image.size();
  const uint64_t needed = (entry.bytes(geometry_) + geometry_.block - 1) / geometry_.block;
  MOULT_ASSIGN_OR_RETURN(const std::vector<DaxRun> free, Free(directory));
  entry.runs = ChooseRuns(free, needed);
  if (entry.runs.empty()) {
    const uint64_t held = CountBlocks(FreeRuns(geometry_, directory)) - CountBlocks(free);
    return absl::ResourceExhaustedError(absl::StrCat(
        context, ": needs ", needed * geometry_.block, " bytes, free are ",
        CountBlocks(free) * geometry_.block, ", and ", held * geometry_.block,
        " of removed templates that are still in use; remove templates, or use a larger device"));
  }
  MOULT_RETURN_IF_ERROR(Annotate(WriteContent(entry, content, deadline, progress), context));
  directory.entries.push_back(std::move(entry));
  return Commit(std::move(directory));
}

absl::Status DaxVolume::Remove(const std::string& name, Clock::time_point deadline) {
  MOULT_RETURN_IF_ERROR(BeginWriting(deadline));
  MOULT_ASSIGN_OR_RETURN(DaxDirectory directory, Read());
  const size_t gone =
      std::erase_if(directory.entries, [&](const DaxEntry& entry) { return entry.name == name; });
  if (gone != 0) return Commit(std::move(directory));
  return absl::NotFoundError(absl::StrCat(OfPool(*medium_), ": remove ", name, ": there is none"));
}

}  // namespace moult::host
