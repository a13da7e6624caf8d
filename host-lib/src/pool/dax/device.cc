// SPDX-License-Identifier: Apache-2.0
#include "pool/dax/device.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <filesystem>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "moult/base/page.h"
#include "moult/base/status.h"
#include "pool/dax/flush.h"
#include "pool/dax/locks.h"
#include "pool/sync_folder.h"

namespace moult::host {
namespace {

// The writer's, in the superblock, which no template has.
constexpr DaxRange kWriterLock{0, 1};

// A number in a file of sysfs; 0: there is none.
uint64_t DaxAttribute(const std::string& folder, const char* name) {
  const UniqueFd fd(open(absl::StrCat(folder, "/", name).c_str(), O_RDONLY | O_CLOEXEC));
  char text[32];
  const ssize_t n = fd.valid() ? read(fd.get(), text, sizeof(text)) : 0;
  uint64_t value = 0;
  return n > 0 && absl::SimpleAtoi(absl::string_view(text, static_cast<size_t>(n)), &value) ? value : 0;
}

bool IsDaxNode(const std::string& folder) {
  char target[PATH_MAX];
  const ssize_t n = readlink(absl::StrCat(folder, "/subsystem").c_str(), target, sizeof(target));
  if (n <= 0) return false;
  const absl::string_view text(target, static_cast<size_t>(n));
  return text.substr(text.rfind('/') + 1) == "dax";
}

bool IsOnDaxFileSystem(int fd) {
  struct statx info = {};
  return statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &info) == 0 &&
         (info.stx_attributes & STATX_ATTR_DAX) != 0;
}

}  // namespace

const char* DaxKindText(DaxKind kind) {
  switch (kind) {
    case DaxKind::kDevdax:
      return "devdax";
    case DaxKind::kFsdax:
      return "fsdax";
    case DaxKind::kPageCache:
      break;
  }
  return "page cache";
}

absl::StatusOr<std::unique_ptr<DaxDevice>> DaxDevice::Open(const std::string& path, bool writable) {
  // O_NONBLOCK: a FIFO must not make us wait.
  UniqueFd fd(open(path.c_str(), (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd.valid() && errno == EISDIR) {
    return absl::InvalidArgumentError(absl::StrCat("open ", path, ": is a folder; name a file in it"));
  }
  if (!fd.valid()) return ErrnoStatus(absl::StrCat("open ", path));
  std::unique_ptr<DaxDevice> device(new DaxDevice(path, std::move(fd)));
  MOULT_RETURN_IF_ERROR(device->Recognize());
  MOULT_RETURN_IF_ERROR(device->Map(writable));
  MOULT_RETURN_IF_ERROR(device->CheckThatMappingsHold());
  return device;
}

// A file system that maps another file than the one that was opened (overlayfs) would let blocks be used again
// while a guest sees them.
absl::Status DaxDevice::CheckThatMappingsHold() const {
  if (kind_ == DaxKind::kDevdax) return absl::OkStatus();
  // Of the superblock, which nobody holds; others may be checking at this moment.
  const DaxRange probe{8 + static_cast<uint64_t>(getpid()) % (kPage - 8), 1};
  UniqueFd other(open(absl::StrCat("/proc/self/fd/", fd()).c_str(), O_RDONLY | O_CLOEXEC));
  if (!other.valid()) return ErrnoStatus(absl::StrCat("open ", path_, " again"));
  MOULT_RETURN_IF_ERROR(HoldRange(other.get(), probe, path_));
  void* const at = mmap(nullptr, kPage, PROT_READ, MAP_SHARED, other.get(), 0);
  if (at == MAP_FAILED) return ErrnoStatus(absl::StrCat("map ", path_));
  other.Reset();
  const auto held = RangesHeld(fd(), probe, path_);
  munmap(at, kPage);
  MOULT_RETURN_IF_ERROR(held.status());
  if (!held->empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("open ", path_,
                   ": on this file system a mapping does not keep its locks (overlayfs, as of a container's root), so "
                   "what a guest sees could be overwritten; give a file of the file system below, by bind mount"));
}

absl::Status DaxDevice::Recognize() {
  const std::string context = absl::StrCat("open ", path_);
  struct stat info;
  if (fstat(fd(), &info) != 0) return ErrnoStatus(absl::StrCat(context, ": fstat"));
  if (S_ISREG(info.st_mode)) {
    align_ = kPage;
    size_ = static_cast<uint64_t>(info.st_size) / kPage * kPage;
    kind_ = IsOnDaxFileSystem(fd()) ? DaxKind::kFsdax : DaxKind::kPageCache;
    if (size_ != 0) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat(context, ": the file is empty; moultctl pool format dax:", path_, " --size MIB"));
  }
  if (S_ISBLK(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(context,
                     ": is a block device; name a devdax device (ndctl create-namespace --mode=devdax), "
                     "or a file of a file system on it that is mounted with -o dax"));
  }
  if (S_ISDIR(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(context, ": is a folder; name a file in it"));
  }
  const std::string folder = absl::StrCat("/sys/dev/char/", major(info.st_rdev), ":", minor(info.st_rdev));
  if (!S_ISCHR(info.st_mode) || !IsDaxNode(folder)) {
    return absl::InvalidArgumentError(
        absl::StrCat(context, ": is no DAX device and no file; give /dev/daxX.Y, or a file"));
  }
  kind_ = DaxKind::kDevdax;
  // The attribute is the device's own from Linux 5.10 on, and was its region's.
  align_ = DaxAttribute(folder, "align");
  if (align_ == 0) align_ = DaxAttribute(folder, "dax_region/align");
  if (align_ < kPage || (align_ & (align_ - 1)) != 0) {
    return absl::FailedPreconditionError(absl::StrCat(context, ": ", folder, "/align: has no power of two"));
  }
  size_ = DaxAttribute(folder, "size") / align_ * align_;
  if (size_ != 0) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      context, ": the device has no memory; daxctl reconfigure-device or create-device gives it some"));
}

std::string DaxDevice::node() const {
  struct stat info = {};
  (void)!fstat(fd(), &info);
  return absl::StrCat(info.st_dev, ":", info.st_ino);
}

absl::Status DaxDevice::Map(bool writable) {
  const int access = PROT_READ | (writable ? PROT_WRITE : 0);
  void* at = MAP_FAILED;
  // What a file system answers for is durable by cache flushes alone when it says so by MAP_SYNC.
  if (kind_ == DaxKind::kFsdax)
    at = mmap(nullptr, size_, access, MAP_SHARED_VALIDATE | MAP_SYNC | MAP_NORESERVE, fd(), 0);
  flush_ = kind_ == DaxKind::kDevdax || at != MAP_FAILED;
  if (at == MAP_FAILED) at = mmap(nullptr, size_, access, MAP_SHARED | MAP_NORESERVE, fd(), 0);
  if (at == MAP_FAILED) return ErrnoStatus(absl::StrCat("map ", size_, " bytes of ", path_));
  data_ = static_cast<std::byte*>(at);
  return absl::OkStatus();
}

DaxDevice::~DaxDevice() {
  // Holds stay as long as a mapping does, which a window may have. Nobody writes through one.
  if (writes_) UnlockRange(fd(), kWriterLock);
  if (data_ != nullptr) munmap(data_, size_);
}

absl::StatusOr<bool> DaxDevice::CreateFile(const std::string& path, uint64_t size) {
  const std::string context = absl::StrCat("create ", path);
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  const bool ours = fd.valid();
  if (!ours && errno == EEXIST) fd = UniqueFd(open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) return ErrnoStatus(context);
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return ErrnoStatus(absl::StrCat(context, ": fstat"));
  if (!S_ISREG(info.st_mode) || info.st_size != 0) {
    return absl::AlreadyExistsError(absl::StrCat(context, ": is there, and is not empty"));
  }
  // All its blocks now: one that is missing when it is written to would be a SIGBUS.
  const int error = posix_fallocate(fd.get(), 0, static_cast<off_t>(size));
  absl::Status failed;
  if (error != 0 || fsync(fd.get()) != 0) failed = ErrnoStatus(error != 0 ? error : errno, absl::StrCat(context, ": ", size, " bytes"));
  const std::string folder = std::filesystem::path(path).parent_path();
  if (failed.ok() && ours) failed = Annotate(SyncFolder(folder.empty() ? "." : folder), context);
  if (failed.ok()) return ours;
  // Another one may be making a pool of a file that was there.
  if (ours) unlink(path.c_str());
  return failed;
}

void DaxDevice::Store(uint64_t at, absl::Span<const std::byte> from) {
  // SAFETY: the caller has checked it against bytes(); only the writer stores, and into nothing that is in
  // use.
  std::memcpy(data_ + at, from.data(), from.size());
}

void DaxDevice::StoreWord(uint64_t at, uint64_t value) {
  // SAFETY: `at` is aligned; other processes load it as a word.
  __atomic_store_n(reinterpret_cast<uint64_t*>(data_ + at), value, __ATOMIC_SEQ_CST);
}

absl::Status DaxDevice::Persist(DaxRange range) {
  if (flush_) {
    FlushLines(data_ + range.at, range.length);
    return absl::OkStatus();
  }
  const uint64_t first = range.at / kPage * kPage;
  if (msync(data_ + first, range.end() - first, MS_SYNC) == 0) return absl::OkStatus();
  return ErrnoStatus(absl::StrCat("msync ", range.length, " bytes at ", range.at, " of ", path_));
}

absl::Status DaxDevice::LockForWriting(Clock::time_point deadline) {
  MOULT_RETURN_IF_ERROR(LockRange(fd(), kWriterLock, deadline, path_));
  writes_ = true;
  return absl::OkStatus();
}

absl::Status DaxDevice::Hold(absl::Span<const DaxRange> ranges) {
  for (const DaxRange& range : ranges) MOULT_RETURN_IF_ERROR(HoldRange(fd(), range, path_));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<DaxRange>> DaxDevice::Held(DaxRange range) const {
  return RangesHeld(fd(), range, path_);
}

}  // namespace moult::host
