// SPDX-License-Identifier: Apache-2.0
#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "moult/protocol/limits.h"
#include "resource/private_file/private_file.h"

namespace moult::engine {
namespace {

absl::Status Gone(const std::string& path) {
  return absl::UnavailableError(absl::StrCat(path, " was removed or replaced during the capture; try again"));
}

// The process stands still, but others in its sandbox need not.
absl::StatusOr<UniqueFd> OpenIn(int folder, const char* name, int flags, const std::string& path) {
  UniqueFd fd(openat(folder, name, flags | O_NOFOLLOW | O_CLOEXEC));
  if (fd.valid()) return fd;
  if (errno == ENOENT || errno == ELOOP || errno == ENOTDIR) return Gone(path);
  return ErrnoStatus(absl::StrCat("open ", path));
}

class Walker {
 public:
  explicit Walker(CaptureContext& context) : context_(context) {}

  // `folder` is open; `path` is its name in the sandbox.
  absl::Status Walk(UniqueFd folder, const std::string& path) {
    struct stat st {};
    if (fstat(folder.get(), &st) < 0) return ErrnoStatus(absl::StrCat("stat ", path));
    MOULT_ASSIGN_OR_RETURN(const bool is_new, Add(path, st));
    static_cast<void>(is_new);  // a folder has one name
    MOULT_ASSIGN_OR_RETURN(const std::vector<std::string> names, List(folder.get(), path));
    for (const std::string& name : names) {
      MOULT_RETURN_IF_ERROR(Entry(folder.get(), name, absl::StrCat(path, "/", name), st.st_dev));
    }
    return absl::OkStatus();
  }

 private:
  static absl::StatusOr<std::vector<std::string>> List(int folder, const std::string& path) {
    // The stream owns its descriptor, and moves its offset.
    const int own = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR* stream = own < 0 ? nullptr : fdopendir(own);
    if (stream == nullptr) {
      const absl::Status status = ErrnoStatus(absl::StrCat("list ", path));
      if (own >= 0) close(own);
      return status;
    }
    std::vector<std::string> names;
    errno = 0;
    while (const dirent* entry = readdir(stream)) {
      const absl::string_view name = entry->d_name;
      if (name != "." && name != "..") names.emplace_back(name);
    }
    const int error = errno;
    closedir(stream);
    if (error != 0) return ErrnoStatus(error, absl::StrCat("list ", path));
    std::sort(names.begin(), names.end());
    return names;
  }

  absl::Status Entry(int folder, const std::string& name, const std::string& path, dev_t dev) {
    struct stat st {};
    if (fstatat(folder, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) < 0) return errno == ENOENT ? Gone(path) : ErrnoStatus(absl::StrCat("stat ", path));
    if (st.st_dev != dev) return Refuse(absl::StrCat(path, " is another file system, mounted there"), "unmount it before the capture");
    switch (st.st_mode & S_IFMT) {
      case S_IFDIR: {
        MOULT_ASSIGN_OR_RETURN(UniqueFd fd, OpenIn(folder, name.c_str(), O_RDONLY | O_DIRECTORY, path));
        return Walk(std::move(fd), path);
      }
      case S_IFREG:
        return RegularFile(folder, name, path, st);
      case S_IFLNK:
        return Link(folder, name, path, st);
      case S_IFIFO:
        return Add(path, st).status();
      case S_IFSOCK:
        return absl::OkStatus();
      default:
        return Refuse(absl::StrCat(path, " is a device"), "remove it before the capture");
    }
  }

  absl::Status RegularFile(int folder, const std::string& name, const std::string& path, const struct stat& listed) {
    MOULT_ASSIGN_OR_RETURN(const UniqueFd fd, OpenIn(folder, name.c_str(), O_RDONLY | O_NONBLOCK, path));
    struct stat st {};
    if (fstat(fd.get(), &st) < 0) return ErrnoStatus(absl::StrCat("stat ", path));
    if (st.st_ino != listed.st_ino || !S_ISREG(st.st_mode)) return Gone(path);
    MOULT_ASSIGN_OR_RETURN(const bool is_new, Add(path, st));
    if (!is_new) return absl::OkStatus();
    if (flistxattr(fd.get(), nullptr, 0) > 0) context_.Note(absl::StrCat("file ", path, " comes back without its extended attributes"));
    image::PrivateFileT& file = *context_.image.private_files.back();
    file.size = static_cast<uint64_t>(st.st_size);
    return Annotate(context_.pages.StageFile(fd.get(), file.size, &file.runs), path);
  }

  absl::Status Link(int folder, const std::string& name, const std::string& path, const struct stat& st) {
    MOULT_ASSIGN_OR_RETURN(const bool is_new, Add(path, st));
    if (!is_new) return absl::OkStatus();
    std::string target(image::kMaxPath, '\0');
    const ssize_t length = readlinkat(folder, name.c_str(), target.data(), target.size());
    if (length <= 0) return errno == ENOENT || errno == EINVAL ? Gone(path) : ErrnoStatus(absl::StrCat("read link ", path));
    target.resize(static_cast<size_t>(length));
    context_.image.private_files.back()->target = std::move(target);
    return absl::OkStatus();
  }

  // False: a further name of one that is there.
  absl::StatusOr<bool> Add(const std::string& path, const struct stat& st) {
    auto& files = context_.image.private_files;
    if (files.size() == image::kMaxPrivateFiles) {
      return Refuse(absl::StrCat("there are more than ", image::kMaxPrivateFiles, " files in its private folders"), "remove some before the capture");
    }
    auto file = std::make_unique<image::PrivateFileT>();
    file->path = path;
    file->mode = st.st_mode;
    file->uid = st.st_uid;
    file->gid = st.st_gid;
    file->mtime_ns = StatTimeNs(st.st_mtim);
    bool is_new = true;
    if (!S_ISDIR(st.st_mode) && st.st_nlink > 1) {
      const auto [known, added] = by_inode_.try_emplace({st.st_dev, st.st_ino}, static_cast<uint32_t>(files.size()));
      is_new = added;
      if (!added) file->same_as = known->second;
    }
    files.push_back(std::move(file));
    return is_new;
  }

  CaptureContext& context_;
  std::map<std::pair<dev_t, ino_t>, uint32_t> by_inode_;
};

}  // namespace

absl::Status CapturePrivateFiles(CaptureContext& context) {
  if (!context.image.sandboxed) return absl::OkStatus();
  Walker walker(context);
  for (const char* folder : image::kPrivateFolders) {
    UniqueFd fd(open(absl::StrCat(context.files.root(), folder).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd.valid() && (errno == ENOENT || errno == ENOTDIR)) continue;
    struct stat theirs {};
    struct statfs fs {};
    if (!fd.valid() || fstat(fd.get(), &theirs) < 0 || fstatfs(fd.get(), &fs) < 0) return ErrnoStatus(absl::StrCat("look into its ", folder));
    struct stat ours {};
    const bool shared = stat(folder, &ours) == 0 && ours.st_dev == theirs.st_dev;
    if (shared || fs.f_type != TMPFS_MAGIC) continue;
    MOULT_RETURN_IF_ERROR(walker.Walk(std::move(fd), folder));
    context.files.ComeAlong(folder);
  }
  return absl::OkStatus();
}

}  // namespace moult::engine
