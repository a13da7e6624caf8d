// SPDX-License-Identifier: Apache-2.0
#include "pool/file/store.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <string_view>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "moult/protocol/digest.h"
#include "moult/protocol/limits.h"
#include "moult/protocol/parse.h"
#include "pool/file/file_system.h"
#include "pool/sync_folder.h"
#include "remote/remote_pages.h"

namespace moult::host {
namespace {

namespace fs = std::filesystem;

constexpr char kLockFile[] = ".lock";
constexpr char kTrash[] = ".trash-";
constexpr char kPartial[] = ".partial-";  // TemplateWriter's
constexpr mode_t kSealedFolder = 0500;
constexpr uint64_t kCopyStep = 4 << 20;
constexpr size_t kMaxChecked = 32;  // each keeps its pages in memory

absl::Status BadName(const std::string& name) {
  return absl::InvalidArgumentError(absl::StrCat(
      "template name \"", name.substr(0, 80),
      "\": give 1 to 64 of [A-Za-z0-9._-], not beginning with a dot, without \"", kPartial, "\""));
}

absl::Status ThereAlready(const std::string& dir) {
  return absl::AlreadyExistsError(
      absl::StrCat("template ", dir, " is there already; remove it first, or take another name"));
}

void Erase(const fs::path& folder) {
  std::error_code ignored;
  fs::permissions(folder, fs::perms::owner_all, ignored);  // Sealed, it would keep its files.
  fs::remove_all(folder, ignored);
}

absl::StatusOr<std::shared_ptr<Template>> OpenTemplate(const std::string& dir, const std::string& name) {
  MOULT_ASSIGN_OR_RETURN(auto reader, image::TemplateReader::Open(dir));
  return MakeTemplate(name, dir, std::move(reader));
}

}  // namespace

int Template::pages_fd() const {
  if (remote != nullptr) return remote->fd();
  return sealed != nullptr ? sealed->fd() : reader->pages_fd();
}

absl::StatusOr<std::shared_ptr<Template>> MakeTemplate(const std::string& name, const std::string& where,
                                                       std::unique_ptr<image::TemplateReader> reader) {
  auto result = std::make_shared<Template>();
  result->name = name;
  result->reader = std::move(reader);
  result->digest = image::DigestHex(image::Sha256Of(result->reader->manifest_file()));
  const std::vector<uint8_t>& spec = result->reader->manifest().function;
  if (!spec.empty()) {
    auto parsed = rpc::ParseFunctionSpec({reinterpret_cast<const char*>(spec.data()), spec.size()});
    if (!parsed.ok()) {
      return Annotate(parsed.status(), absl::StrCat("read template ", where, ": manifest: function"));
    }
    result->spec = *std::move(parsed);
  }
  return result;
}

namespace {

absl::Status WriteFile(const std::string& path, absl::Span<const std::byte> bytes) {
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0400));
  if (!fd.valid()) return ErrnoStatus(absl::StrCat("create ", path));
  while (!bytes.empty()) {
    const ssize_t written = write(fd.get(), bytes.data(), std::min<size_t>(bytes.size(), kCopyStep));
    if (written < 0 && errno != EINTR) return ErrnoStatus(absl::StrCat("write ", path));
    if (written > 0) bytes.remove_prefix(static_cast<size_t>(written));
  }
  return fsync(fd.get()) == 0 ? absl::OkStatus() : ErrnoStatus(absl::StrCat("fsync ", path));
}

absl::Span<const std::byte> BytesOf(std::string_view text) {
  // SAFETY: read only, as bytes.
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

absl::Status CloneTo(const std::string& path, int from) {
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0400));
  if (!fd.valid()) return ErrnoStatus(absl::StrCat("create ", path));
  MOULT_RETURN_IF_ERROR(Annotate(CloneFile(from, fd.get()), path));
  return fsync(fd.get()) == 0 ? absl::OkStatus() : ErrnoStatus(absl::StrCat("fsync ", path));
}

// As VerifyPages(false), which does not tell how far it is.
absl::Status VerifyCopied(const image::TemplateReader& reader, const TransferProgress& progress) {
  std::vector<std::byte> buffer(std::min(reader.pages_size(), kCopyStep));
  for (uint64_t at = 0; at < reader.pages_size(); at += kCopyStep) {
    const auto piece = absl::MakeSpan(buffer).first(std::min(kCopyStep, reader.pages_size() - at));
    MOULT_RETURN_IF_ERROR(reader.ReadPages(at, piece));
    if (progress) progress(at + piece.size(), reader.pages_size());
  }
  return absl::OkStatus();
}

// Makes the folder, and looks at it as a reader would.
absl::Status FillFolder(const std::string& folder, std::string_view manifest, std::string_view image,
                        const std::function<absl::Status(const std::string& path)>& make_pages, const TransferProgress& progress) {
  if (mkdir(folder.c_str(), 0700) != 0) return ErrnoStatus(absl::StrCat("mkdir ", folder));
  MOULT_RETURN_IF_ERROR(make_pages(absl::StrCat(folder, "/", image::kPagesFile)));
  MOULT_RETURN_IF_ERROR(WriteFile(absl::StrCat(folder, "/", image::kManifestFile), BytesOf(manifest)));
  MOULT_RETURN_IF_ERROR(WriteFile(absl::StrCat(folder, "/", image::kImageFile), BytesOf(image)));
  MOULT_RETURN_IF_ERROR(SyncFolder(folder));
  MOULT_ASSIGN_OR_RETURN(const auto reader, image::TemplateReader::Open(folder));
  return VerifyCopied(*reader, progress);
}

}  // namespace

absl::Status NewTemplate::Publish(const image::ProcessImageT& image, image::ManifestT manifest) {
  absl::Status status = writer_->Commit(image, std::move(manifest));
  if (!status.ok()) {
    // Somebody else was first, and his template is as good as ours.
    if (absl::IsFailedPrecondition(status) && access(dir_.c_str(), F_OK) == 0) {
      return absl::AlreadyExistsError(status.message());
    }
    return status;
  }
  // The files are read-only already; now none can be added or taken away by accident.
  if (chmod(dir_.c_str(), kSealedFolder) != 0) return ErrnoStatus(absl::StrCat("seal ", dir_));
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Store>> Store::Open(const std::string& path, bool create) {
  const std::string context = absl::StrCat("open store ", path);
  if (path.empty()) return absl::InvalidArgumentError("open store: the path is empty");
  if (create && mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    return ErrnoStatus(absl::StrCat(context, ": mkdir"));
  }
  const std::unique_ptr<char, void (*)(void*)> real(realpath(path.c_str(), nullptr), free);
  if (real == nullptr) return ErrnoStatus(context);
  struct stat info;
  if (stat(real.get(), &info) != 0) return ErrnoStatus(context);
  if (!S_ISDIR(info.st_mode))
    return absl::FailedPreconditionError(absl::StrCat(context, ": is not a folder"));
  MOULT_RETURN_IF_ERROR(CheckWritableFiles(real.get(), "open store"));
  std::shared_ptr<Store> store(new Store(real.get()));
  store->Sweep();
  return store;
}

absl::StatusOr<UniqueFd> Store::Lock(int operation) const {
  const std::string file = absl::StrCat(path_, "/", kLockFile);
  UniqueFd fd(open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid()) return ErrnoStatus(absl::StrCat("open ", file));
  while (flock(fd.get(), operation) != 0) {
    if (errno != EINTR) return ErrnoStatus(absl::StrCat("flock ", file));
  }
  return fd;
}

void Store::Sweep() const {
  // Only when nobody writes: a folder that is being made looks like one that was left. A store that we may
  // only read is somebody else's to sweep.
  // Where nothing was left no lock is made either: a look at a folder leaves nothing there. What is seen before the lock
  // is had, and is somebody's who writes, is gone by then, or keeps it from being had.
  std::error_code error;
  std::vector<fs::path> left;
  for (fs::directory_iterator entry(path_, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename();
    if (absl::StartsWith(name, kTrash) || absl::StrContains(name, kPartial)) left.push_back(entry->path());
  }
  if (left.empty()) return;
  const auto lock = Lock(LOCK_EX | LOCK_NB);
  if (!lock.ok()) return;
  for (const fs::path& folder : left) Erase(folder);
}

absl::StatusOr<std::string> Store::Dir(const std::string& name) const {
  if (!rpc::IsName(name) || absl::StrContains(name, kPartial)) return BadName(name);
  return absl::StrCat(path_, "/", name);
}

absl::StatusOr<std::vector<std::string>> Store::Names() const {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(path_, error), end; !error && entry != end; entry.increment(error)) {
    std::string name = entry->path().filename();
    std::error_code ignored;
    if (Dir(name).ok() && entry->is_directory(ignored)) names.push_back(std::move(name));
  }
  if (error) return ErrnoStatus(error.value(), absl::StrCat("list store ", path_));
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<Store::Identity> Store::Identify(const std::string& dir) {
  Identity identity{};
  size_t i = 0;
  for (const char* name : {image::kManifestFile, image::kImageFile, image::kPagesFile}) {
    struct stat info;
    const std::string file = absl::StrCat(dir, "/", name);
    if (lstat(file.c_str(), &info) != 0) {
      if (errno == ENOENT && i == 0) {
        return absl::NotFoundError(absl::StrCat("no template at ", dir, "; list the store to see what is"));
      }
      return errno == ENOENT
                 ? absl::DataLossError(absl::StrCat("read template ", dir, ": ", name, ": missing"))
                 : ErrnoStatus(absl::StrCat("stat ", file));
    }
    const auto number = [](auto value) { return static_cast<uint64_t>(value); };
    identity[i++] = {number(info.st_dev),         number(info.st_ino),          number(info.st_size),
                     number(info.st_mtim.tv_sec), number(info.st_mtim.tv_nsec), number(info.st_ctim.tv_sec),
                     number(info.st_ctim.tv_nsec)};
  }
  return identity;
}

absl::StatusOr<std::shared_ptr<const Template>> Store::Read(const std::string& name) const {
  MOULT_ASSIGN_OR_RETURN(const std::string dir, Dir(name));
  MOULT_RETURN_IF_ERROR(Identify(dir).status());
  return OpenTemplate(dir, name);
}

absl::StatusOr<std::shared_ptr<const Template>> Store::Get(const std::string& name) {
  MOULT_ASSIGN_OR_RETURN(const std::string dir, Dir(name));
  // Before and after, so that what is remembered is what was read.
  MOULT_ASSIGN_OR_RETURN(const Identity before, Identify(dir));
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = checked_.find(name);
    if (found != checked_.end() && found->second.identity == before) return found->second.content;
    if (found != checked_.end()) checked_.erase(found);
  }
  MOULT_ASSIGN_OR_RETURN(auto content, OpenTemplate(dir, name));
  if (content->reader->pages_size() != 0) {
    MOULT_ASSIGN_OR_RETURN(content->sealed, SealedPages::Obtain(path_, content->digest, *content->reader));
  }
  if (content->sealed == nullptr) MOULT_RETURN_IF_ERROR(content->reader->VerifyPages(/*threads=*/false));
  const auto after = Identify(dir);
  if (after.ok() && *after == before) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (checked_.size() >= kMaxChecked) checked_.erase(checked_.begin());
    checked_.insert_or_assign(name, Cached{before, content});
  }
  return content;
}

absl::Status Store::Verify(const std::string& name) const {
  MOULT_ASSIGN_OR_RETURN(const auto content, Read(name));
  return content->reader->VerifyPages(/*threads=*/false);
}

absl::Status Store::Remove(const std::string& name, const std::string& digest) {
  static std::atomic<unsigned> counter{0};
  MOULT_ASSIGN_OR_RETURN(const std::string dir, Dir(name));
  const auto check = [&](const std::string& at) -> absl::Status {
    if (digest.empty()) return absl::OkStatus();
    const auto there = OpenTemplate(at, name);
    if (!there.ok()) return Annotate(there.status(), absl::StrCat("remove template ", dir, ": whether it is the one that is meant"));
    if ((*there)->digest == digest) return absl::OkStatus();
    return absl::NotFoundError(absl::StrCat("remove template ", dir, ": it is gone, and another has its name by now"));
  };
  UniqueFd shared;  // What is to go back is nobody's to sweep away.
  if (!digest.empty()) {
    MOULT_ASSIGN_OR_RETURN(shared, Lock(LOCK_SH));
  }
  if (access(dir.c_str(), F_OK) == 0) MOULT_RETURN_IF_ERROR(check(dir));
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    checked_.erase(name);
  }
  // By rename, so that no reader ever sees half of it.
  const std::string trash = absl::StrCat(path_, "/", kTrash, getpid(), "-", counter++, "-", name);
  if (rename(dir.c_str(), trash.c_str()) != 0) {
    if (errno == ENOENT) return absl::NotFoundError(absl::StrCat("remove template: none at ", dir));
    return ErrnoStatus(absl::StrCat("remove template ", dir));
  }
  if (const absl::Status meant = check(trash); !meant.ok()) {  // One that came a moment ago goes back.
    if (renameat2(AT_FDCWD, trash.c_str(), AT_FDCWD, dir.c_str(), RENAME_NOREPLACE) != 0)
      return ErrnoStatus(absl::StrCat("give template ", dir, " its name back"));
    return meant;
  }
  Erase(trash);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<NewTemplate>> Store::Create(const std::string& name, uint32_t format_version) const {
  MOULT_ASSIGN_OR_RETURN(std::string dir, Dir(name));
  MOULT_ASSIGN_OR_RETURN(UniqueFd lock, Lock(LOCK_SH));
  struct stat info;
  if (lstat(dir.c_str(), &info) == 0) return ThereAlready(dir);
  // This library starts no threads: what is to be hashed, Publish hashes.
  MOULT_ASSIGN_OR_RETURN(auto writer, image::TemplateWriter::Create(dir, {.hash_in_background = false, .format_version = format_version}));
  return std::unique_ptr<NewTemplate>(new NewTemplate(std::move(dir), std::move(lock), std::move(writer)));
}

absl::Status Store::Import(const std::string& name, const std::string& from, const rpc::FunctionSpecT* spec,
                           const std::string* tenant) const {
  MOULT_ASSIGN_OR_RETURN(const auto source, OpenTemplate(from, name));
  return Copy(name, *source->reader, spec, tenant, Clock::time_point::max(), /*progress=*/nullptr);
}

absl::Status Store::Add(const std::string& name, const Template& content, Clock::time_point deadline,
                        const TransferProgress& progress) const {
  const image::TemplateReader& reader = *content.reader;
  if (reader.pages_fd() >= 0 && reader.pages_size() != 0) {
    const auto clone = [&](const std::string& path) { return CloneTo(path, reader.pages_fd()); };
    const absl::Status cloned = ImportWith(name, reader.manifest_file(), reader.image_file(), clone, progress);
    if (!absl::IsUnimplemented(cloned)) return cloned;
  }
  return Copy(name, reader, nullptr, nullptr, deadline, progress);
}

absl::Status Store::Copy(const std::string& name, const image::TemplateReader& reader, const rpc::FunctionSpecT* spec,
                         const std::string* tenant, Clock::time_point deadline, const TransferProgress& progress) const {
  MOULT_ASSIGN_OR_RETURN(const auto target, Create(name, reader.manifest().format_version));
  std::vector<std::byte> buffer(std::min(reader.pages_size(), kCopyStep));
  for (uint64_t at = 0; at < reader.pages_size(); at += kCopyStep) {
    if (Clock::now() >= deadline) {
      return absl::DeadlineExceededError(absl::StrCat("copy template ", name, ": ", at, " of ", reader.pages_size(),
                                                      " bytes were done in time; give it longer"));
    }
    const auto piece = absl::MakeSpan(buffer).first(std::min(kCopyStep, reader.pages_size() - at));
    MOULT_RETURN_IF_ERROR(reader.ReadPages(at, piece));  // Checked against the digests.
    const struct iovec part = {piece.data(), piece.size()};
    MOULT_RETURN_IF_ERROR(target->writer().AppendPages({&part, 1}).status());
    if (progress) progress(at + piece.size(), reader.pages_size());
  }
  MOULT_ASSIGN_OR_RETURN(auto manifest, image::ParseManifest(reader.manifest_file()));
  if (spec != nullptr) {
    const std::string bytes = rpc::SerializeFunctionSpec(*spec);
    manifest->function.assign(bytes.begin(), bytes.end());
  }
  if (tenant != nullptr) manifest->tenant = *tenant;
  return target->Publish(reader.image(), std::move(*manifest));
}

absl::Status Store::ImportFiles(const std::string& name, std::string_view manifest, std::string_view image,
                                absl::Span<const std::byte> pages) const {
  return ImportWith(
      name, manifest, image, [&](const std::string& path) { return WriteFile(path, pages); }, /*progress=*/nullptr);
}

absl::Status Store::ImportWith(const std::string& name, std::string_view manifest, std::string_view image,
                               const std::function<absl::Status(const std::string& path)>& make_pages,
                               const TransferProgress& progress) const {
  static std::atomic<unsigned> counter{0};
  MOULT_ASSIGN_OR_RETURN(const std::string dir, Dir(name));
  MOULT_ASSIGN_OR_RETURN(const UniqueFd lock, Lock(LOCK_SH));  // Nobody sweeps meanwhile.
  struct stat info;
  if (lstat(dir.c_str(), &info) == 0) return ThereAlready(dir);
  const std::string partial = absl::StrCat(dir, kPartial, getpid(), "-", counter++);
  absl::Status status = FillFolder(partial, manifest, image, make_pages, progress);
  if (status.ok() && renameat2(AT_FDCWD, partial.c_str(), AT_FDCWD, dir.c_str(), RENAME_NOREPLACE) != 0) {
    status = errno == EEXIST ? ThereAlready(dir) : ErrnoStatus(absl::StrCat("rename ", partial));
  }
  if (!status.ok()) {
    Erase(partial);
    return Annotate(status, absl::StrCat("import template ", name));
  }
  if (chmod(dir.c_str(), kSealedFolder) != 0) return ErrnoStatus(absl::StrCat("seal ", dir));
  return SyncFolder(path_);
}

}  // namespace moult::host
