// SPDX-License-Identifier: Apache-2.0
#include "pool/cache/template_cache.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <thread>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "moult/base/status.h"

namespace moult::host {
namespace {

namespace fs = std::filesystem;

constexpr char kPages[] = ".pages";
constexpr char kSet[] = ".set";
constexpr std::chrono::seconds kLockWithin{2};
constexpr std::chrono::milliseconds kLockPause{2};
constexpr size_t kMostSets = 1024;  // outlive their entries

// A folder of ours that nobody else can look into.
absl::Status MakeFolder(const std::string& path) {
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST)
    return ErrnoStatus(absl::StrCat("cache ", path, ": mkdir"));
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(absl::StrCat("cache ", path));
  struct stat info;
  struct statfs system;
  if (fstat(fd.get(), &info) != 0 || fstatfs(fd.get(), &system) != 0)
    return ErrnoStatus(absl::StrCat("cache ", path));
  if (info.st_uid != geteuid() || (info.st_mode & 077) != 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "cache ", path, ": is another user's, or others can enter it; remove it, or name another folder"));
  }
  if (system.f_type != TMPFS_MAGIC) {
    return absl::FailedPreconditionError(
        absl::StrCat("cache ", path, ": is on no tmpfs; name a folder on one, in /dev/shm for example"));
  }
  return absl::OkStatus();
}

// False: somebody uses it, or it is gone.
bool IsUnused(const std::string& path, UniqueFd* hold) {
  *hold = UniqueFd(open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
  return hold->valid() && flock(hold->get(), LOCK_EX | LOCK_NB) == 0;
}

struct Found {
  std::string path;
  struct stat info;
};

// Those files of the folder, the one that was used longest ago first.
std::vector<Found> FilesOf(const std::string& folder, const char* suffix) {
  std::vector<Found> files;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    Found found{entry->path(), {}};
    if (!absl::EndsWith(found.path, suffix) || lstat(found.path.c_str(), &found.info) != 0) continue;
    files.push_back(std::move(found));
  }
  std::sort(files.begin(), files.end(), [](const Found& a, const Found& b) {
    return std::make_pair(a.info.st_mtim.tv_sec, a.info.st_mtim.tv_nsec) <
           std::make_pair(b.info.st_mtim.tv_sec, b.info.st_mtim.tv_nsec);
  });
  return files;
}

uint64_t SizeOf(const struct stat& info) { return static_cast<uint64_t>(info.st_size); }

}  // namespace

absl::StatusOr<CacheEntry> CacheEntry::Private(uint64_t size) {
  UniqueFd fd(memfd_create("moult-template", MFD_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus("memfd_create for template pages");
  if (ftruncate(fd.get(), static_cast<off_t>(size)) != 0) return ErrnoStatus("ftruncate of template pages");
  return CacheEntry(std::move(fd), /*shared=*/false);
}

absl::StatusOr<std::unique_ptr<TemplateCache>> TemplateCache::Open(const std::string& folder,
                                                                   const std::string& tenant,
                                                                   uint64_t limit_bytes) {
  MOULT_RETURN_IF_ERROR(MakeFolder(folder));
  // A tenant may be called as it likes.
  const std::string ours = absl::StrCat(folder, "/tenant-", absl::BytesToHexString(tenant));
  MOULT_RETURN_IF_ERROR(MakeFolder(ours));
  if (limit_bytes == 0) {
    struct statfs system;
    if (statfs(ours.c_str(), &system) != 0) return ErrnoStatus(absl::StrCat("cache ", ours));
    limit_bytes = static_cast<uint64_t>(system.f_blocks) * static_cast<uint64_t>(system.f_bsize) / 2;
    if (limit_bytes == 0) limit_bytes = UINT64_MAX;  // A tmpfs without a limit.
  }
  return std::unique_ptr<TemplateCache>(new TemplateCache(ours, limit_bytes));
}

std::string TemplateCache::Path(const std::string& digest, const char* suffix) const {
  return absl::StrCat(folder_, "/", digest, suffix);
}

absl::StatusOr<UniqueFd> TemplateCache::Lock() const {
  const std::string path = absl::StrCat(folder_, "/.lock");
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid()) return ErrnoStatus(absl::StrCat("open ", path));
  const auto deadline = std::chrono::steady_clock::now() + kLockWithin;
  while (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) return ErrnoStatus(absl::StrCat("flock ", path));
    if (std::chrono::steady_clock::now() > deadline) {
      return absl::UnavailableError(
          absl::StrCat("cache ", folder_, ": another process has had the lock for 2 s"));
    }
    std::this_thread::sleep_for(kLockPause);
  }
  return fd;
}

absl::Status TemplateCache::MakeRoom(uint64_t size) const {
  const std::vector<Found> files = FilesOf(folder_, kPages);
  uint64_t used = 0;
  for (const Found& file : files) used += SizeOf(file.info);
  for (const Found& file : files) {
    if (size <= limit_ && used <= limit_ - size) break;
    UniqueFd hold;
    if (!IsUnused(file.path, &hold)) continue;
    if (unlink(file.path.c_str()) == 0) used -= SizeOf(file.info);
  }
  const std::vector<Found> sets = FilesOf(folder_, kSet);
  for (size_t i = 0; i + kMostSets < sets.size(); ++i) unlink(sets[i].path.c_str());
  if (size <= limit_ && used <= limit_ - size) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("cache ", folder_, ": ", used, " of ", limit_,
                                                   " bytes are templates in use, and this one has ", size,
                                                   "; detach functions, or give it more room"));
}

absl::StatusOr<CacheEntry> TemplateCache::Take(const std::string& digest, uint64_t size) const {
  const std::string path = Path(digest, kPages);
  MOULT_ASSIGN_OR_RETURN(const UniqueFd lock, Lock());
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
  if (!fd.valid() && errno != ENOENT) return ErrnoStatus(absl::StrCat("cache ", path));
  struct stat info {};
  if (fd.valid() && fstat(fd.get(), &info) != 0) return ErrnoStatus(absl::StrCat("cache ", path));
  if (!fd.valid() || SizeOf(info) != size) {
    // One of another size was left by a process that died before it had made it.
    if (fd.valid() && unlink(path.c_str()) != 0) return ErrnoStatus(absl::StrCat("cache ", path, ": unlink"));
    MOULT_RETURN_IF_ERROR(MakeRoom(size));
    fd = UniqueFd(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd.valid()) return ErrnoStatus(absl::StrCat("cache ", path));
    if (ftruncate(fd.get(), static_cast<off_t>(size)) != 0)
      return ErrnoStatus(absl::StrCat("cache ", path, ": ftruncate"));
  }
  if (flock(fd.get(), LOCK_SH | LOCK_NB) != 0) return ErrnoStatus(absl::StrCat("cache ", path, ": flock"));
  (void)futimens(fd.get(), nullptr);  // It was used now.
  return CacheEntry(std::move(fd), /*shared=*/true);
}

CacheUse TemplateCache::Use() const {
  CacheUse use;
  use.limit_bytes = limit_;
  for (const Found& file : FilesOf(folder_, kPages)) {
    use.used_bytes += static_cast<uint64_t>(file.info.st_blocks) * 512;
    ++use.templates;
  }
  return use;
}

}  // namespace moult::host
