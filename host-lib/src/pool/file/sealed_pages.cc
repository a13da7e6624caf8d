// SPDX-License-Identifier: Apache-2.0
#include "pool/file/sealed_pages.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "moult/base/status.h"
#include "moult/protocol/digest.h"
#include "moult/protocol/limits.h"

namespace moult::host {
namespace {

constexpr int kSeals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
constexpr uint64_t kSealStep = 4 << 20;
constexpr size_t kMaxNote = 65536;

// A process that has a copy.
struct Holder {
  pid_t pid = 0;
  uint64_t start = 0;  // clock ticks since boot: tells a pid from its next user
  int fd = -1;
  bool operator==(const Holder&) const = default;
};

std::string ReadSmall(int fd) {
  std::string text(kMaxNote, '\0');
  const ssize_t n = pread(fd, text.data(), text.size(), 0);
  text.resize(n < 0 ? 0 : static_cast<size_t>(n));
  return text;
}

// 0: there is no such process.
uint64_t StartTime(pid_t pid) {
  const UniqueFd fd(open(absl::StrCat("/proc/", pid, "/stat").c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return 0;
  const std::string text = ReadSmall(fd.get());
  // Field 22; the second may hold spaces and brackets.
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return 0;
  const std::vector<std::string> fields = absl::StrSplit(text.substr(name_end + 1), ' ', absl::SkipEmpty());
  return fields.size() > 19 ? strtoull(fields[19].c_str(), nullptr, 10) : 0;
}

std::vector<Holder> ParseNote(const std::string& text) {
  std::vector<Holder> holders;
  std::istringstream in(text);
  for (Holder one; in >> one.pid >> one.start >> one.fd;) holders.push_back(one);
  return holders;
}

void WriteNote(int fd, const std::vector<Holder>& holders) {
  std::string text;
  for (const Holder& one : holders) absl::StrAppend(&text, one.pid, " ", one.start, " ", one.fd, "\n");
  // One that is torn names processes that have no copy, which is found out.
  if (ftruncate(fd, 0) == 0) (void)!pwrite(fd, text.data(), text.size(), 0);
}

// The note, locked. Invalid: it cannot be had.
UniqueFd LockNote(const std::string& path) {
  for (;;) {
    UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd.valid()) return fd;
    while (flock(fd.get(), LOCK_EX) != 0) {
      if (errno != EINTR) return {};
    }
    struct stat info;
    if (fstat(fd.get(), &info) == 0 && info.st_nlink != 0) return fd;  // Else the last holder has removed it.
  }
}

absl::Status Verify(int fd, const image::ManifestT& manifest) {
  const uint64_t size = manifest.pages->size;
  std::vector<std::byte> buffer(std::min(size, image::kPagesChunk));
  const image::PageLeaves leaves = {manifest.format_version, manifest.pages_leaves};
  for (uint64_t at = 0; at < size; at += image::kPagesChunk) {
    const auto chunk = absl::MakeSpan(buffer).first(std::min(size - at, image::kPagesChunk));
    if (pread(fd, chunk.data(), chunk.size(), static_cast<off_t>(at)) != static_cast<ssize_t>(chunk.size()))
      return ErrnoStatus("read a copy of template pages");
    if (!leaves.Match(chunk, at / image::kPagesChunk)) return absl::DataLossError("another content");
  }
  return absl::OkStatus();
}

// What others have is believed as far as it can be checked: sealed, and of this content.
UniqueFd OpenOf(const Holder& holder, const image::ManifestT& manifest) {
  const std::string path = absl::StrCat("/proc/", holder.pid, "/fd/", holder.fd);
  struct stat info;
  if (stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return {};
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid() || fcntl(fd.get(), F_GET_SEALS) != kSeals) return {};
  if (fstat(fd.get(), &info) != 0 || static_cast<uint64_t>(info.st_size) != manifest.pages->size) return {};
  if (!Verify(fd.get(), manifest).ok()) return {};
  return fd;
}

absl::StatusOr<UniqueFd> Make(const image::TemplateReader& reader) {
  UniqueFd fd(memfd_create("moult-template", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return ErrnoStatus("memfd_create for template pages");
  std::vector<std::byte> buffer(std::min(reader.pages_size(), kSealStep));
  for (uint64_t at = 0; at < reader.pages_size(); at += kSealStep) {
    const auto piece = absl::MakeSpan(buffer).first(std::min(kSealStep, reader.pages_size() - at));
    MOULT_RETURN_IF_ERROR(reader.ReadPages(at, piece));  // Checked against the digests.
    if (pwrite(fd.get(), piece.data(), piece.size(), static_cast<off_t>(at)) !=
        static_cast<ssize_t>(piece.size()))
      return ErrnoStatus("copy template pages into memory");
  }
  if (fcntl(fd.get(), F_ADD_SEALS, kSeals) != 0) return ErrnoStatus("seal template pages");
  // The page cache need not hold them as well.
  (void)posix_fadvise(reader.pages_fd(), 0, 0, POSIX_FADV_DONTNEED);
  return fd;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const SealedPages>> SealedPages::Obtain(const std::string& store,
                                                                       const std::string& digest,
                                                                       const image::TemplateReader& reader) {
  const std::string path = absl::StrCat(store, "/.sealed-", digest);
  const UniqueFd note = LockNote(path);
  if (!note.valid()) return nullptr;
  std::vector<Holder> holders = ParseNote(ReadSmall(note.get()));
  std::erase_if(holders, [](const Holder& one) { return one.start == 0 || StartTime(one.pid) != one.start; });
  UniqueFd fd;
  bool hidden = false;
  for (const Holder& one : holders) {
    fd = OpenOf(one, reader.manifest());
    if (fd.valid()) break;
    hidden = hidden || access(absl::StrCat("/proc/", one.pid, "/fd/.").c_str(), X_OK) != 0;
  }
  if (!fd.valid() && hidden) return nullptr;
  if (fd.valid()) {
    // That the copy is good does not say that the file is.
    MOULT_RETURN_IF_ERROR(reader.VerifyPages(/*threads=*/false));
  } else {
    holders.clear();
    MOULT_ASSIGN_OR_RETURN(fd, Make(reader));
  }
  holders.push_back({getpid(), StartTime(getpid()), fd.get()});
  WriteNote(note.get(), holders);
  return std::shared_ptr<const SealedPages>(new SealedPages(path, std::move(fd)));
}

SealedPages::~SealedPages() {
  const UniqueFd note = LockNote(note_);
  if (!note.valid()) return;
  std::vector<Holder> holders = ParseNote(ReadSmall(note.get()));
  std::erase(holders, Holder{getpid(), StartTime(getpid()), fd()});
  WriteNote(note.get(), holders);
  if (holders.empty()) unlink(note_.c_str());
}

}  // namespace moult::host
