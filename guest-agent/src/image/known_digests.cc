// SPDX-License-Identifier: Apache-2.0
#include "image/known_digests.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include <string>

#include "image/capture_context.h"
#include "moult/base/unique_fd.h"
#include "proc/locks.h"
#include "proc/maps.h"
#include "proc/read.h"
#include "resource/file/file.h"

namespace moult::engine {
namespace {

// Meanwhile it may open more; it will not forever.
constexpr int kRounds = 3;
// A clock of the file system that is no finer than this shows every write after the digest was begun.
constexpr int64_t kSettledNs = 2'000'000'000;

// Inodes of files with a lease, whoever has it: to open one can break it.
absl::StatusOr<std::set<uint64_t>> LeasedInodes() {
  MOULT_ASSIGN_OR_RETURN(const std::string text, proc::ReadFile("/proc/locks"));
  MOULT_ASSIGN_OR_RETURN(const auto locks, proc::ParseLocks(text));
  std::set<uint64_t> inodes;
  for (const proc::LockInfo& lock : locks) {
    if (lock.kind == proc::LockKind::kLease || lock.kind == proc::LockKind::kDelegation)
      inodes.insert(lock.inode);
  }
  return inodes;
}

bool HasSettled(const struct stat& st) {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return StatTimeNs(st.st_ctim) <= StatTimeNs(now) - kSettledNs;
}

}  // namespace

FileVersion VersionOf(const struct stat& st) {
  return {st.st_dev, st.st_ino, static_cast<uint64_t>(st.st_size), StatTimeNs(st.st_mtim),
          StatTimeNs(st.st_ctim)};
}

FileVersion VersionOf(const image::FileRefT& file) {
  return {file.dev, file.ino, file.size, file.mtime_ns, file.ctime_ns};
}

const image::Sha256Digest* KnownDigests::Find(const FileVersion& version) const {
  const auto it = digests_.find(version);
  return it == digests_.end() ? nullptr : &it->second;
}

// `path` is a link of procfs to the file itself, so nothing else is opened.
bool KnownDigests::LearnOne(const char* path) {
  struct stat st {};
  if (stat(path, &st) < 0 || !S_ISREG(st.st_mode) || st.st_nlink == 0) return false;
  const FileVersion version = VersionOf(st);
  if (Find(version) != nullptr || !HasSettled(st) || leased_.count(st.st_ino) != 0) return false;
  // tmpfs does not show stores through a mapping in ctime.
  struct statfs fs {};
  if (statfs(path, &fs) < 0 || fs.f_type == TMPFS_MAGIC) return false;
  // To open such a file, or to read it, can do things.
  if (PseudoFileSystemOf(path) != nullptr) return false;
  const UniqueFd fd(open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) return false;
  const auto digest = image::Sha256OfFile(fd.get(), path);
  if (!digest.ok() || fstat(fd.get(), &st) < 0 || VersionOf(st) != version) return false;
  digests_.emplace(version, *digest);
  return true;
}

bool KnownDigests::LearnMapped(pid_t pid, const std::function<bool()>& may_go_on) {
  const auto text = proc::ReadFile(absl::StrCat("/proc/", pid, "/maps"));
  if (!text.ok()) return false;
  const auto maps = proc::ParseMaps(*text);
  if (!maps.ok()) return false;
  bool learned = false;
  const proc::MapsEntry* last = nullptr;
  for (const proc::MapsEntry& entry : *maps) {
    // What is shared to be written may change; restore looks at its size only.
    if (entry.inode == 0 || entry.deleted || (entry.shared && entry.write)) continue;
    // A library has several mappings, one after the other.
    if (last != nullptr && last->inode == entry.inode && last->dev_major == entry.dev_major &&
        last->dev_minor == entry.dev_minor)
      continue;
    if (!may_go_on()) return false;
    last = &entry;
    learned |= LearnOne(absl::StrFormat("/proc/%d/map_files/%x-%x", pid, entry.start, entry.end).c_str());
  }
  return learned;
}

bool KnownDigests::LearnOpen(pid_t pid, const std::function<bool()>& may_go_on) {
  const std::string folder = absl::StrCat("/proc/", pid, "/fd");
  const auto numbers = proc::ListNumeric(folder);
  if (!numbers.ok()) return false;
  bool learned = false;
  for (const int number : *numbers) {
    const std::string path = absl::StrCat(folder, "/", number);
    // The link's mode shows what the descriptor is for; what is only written is not matched by content.
    struct stat link {};
    if (lstat(path.c_str(), &link) < 0 || (link.st_mode & S_IRUSR) == 0) continue;
    // Who may write it may have it mapped, and stores to a page that is dirty already show nowhere.
    if ((link.st_mode & S_IWUSR) != 0) continue;
    if (!may_go_on()) return false;
    learned |= LearnOne(path.c_str());
  }
  return learned;
}

void KnownDigests::Learn(pid_t pid, const std::function<bool()>& may_go_on) {
  auto leased = LeasedInodes();
  if (!leased.ok()) return;
  leased_ = *std::move(leased);
  for (int i = 0; i < kRounds; ++i) {
    const bool mapped = LearnMapped(pid, may_go_on);
    const bool open = LearnOpen(pid, may_go_on);
    if (!mapped && !open) return;
  }
}

}  // namespace moult::engine
