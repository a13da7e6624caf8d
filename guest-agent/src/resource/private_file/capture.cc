// SPDX-License-Identifier: Apache-2.0
#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "absl/strings/match.h"
#include "moult/protocol/limits.h"
#include "resource/private_file/private_file.h"

namespace moult::engine {
namespace {

// A descriptor and a part of the stack each.
constexpr int kMaxDepth = 128;
constexpr size_t kEntriesBetweenLooks = 64;

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
  Walker(CaptureContext& context, const std::function<bool()>& may_go_on) : context_(context), may_go_on_(may_go_on) {}

  // `folder` is open; `path` is its name in the sandbox.
  absl::Status Walk(UniqueFd folder, const std::string& path, int depth = 0) {
    if (depth == kMaxDepth) return Refuse(absl::StrCat(path, " is nested in more than ", kMaxDepth, " folders"), "remove it before the capture");
    struct stat st {};
    if (fstat(folder.get(), &st) < 0) return ErrnoStatus(absl::StrCat("stat ", path));
    MOULT_ASSIGN_OR_RETURN(const bool is_new, Add(path, st));
    static_cast<void>(is_new);  // a folder has one name
    MOULT_ASSIGN_OR_RETURN(const std::vector<std::string> names, List(folder.get(), path));
    for (const std::string& name : names) {
      MOULT_RETURN_IF_ERROR(Entry(folder.get(), name, absl::StrCat(path, "/", name), st.st_dev, depth));
    }
    return absl::OkStatus();
  }

  void Tell() const {
    if (with_attributes_ == 0) return;
    context_.Note(absl::StrCat(with_attributes_, " files in its private folders come back without their extended attributes, such as ", first_with_attributes_.substr(0, 1024)));
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

  absl::Status Entry(int folder, const std::string& name, const std::string& path, dev_t dev, int depth) {
    if (++entries_ % kEntriesBetweenLooks == 0 && !may_go_on_()) return absl::CancelledError("given up on request; nothing was changed");
    struct stat st {};
    if (fstatat(folder, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) < 0) return errno == ENOENT ? Gone(path) : ErrnoStatus(absl::StrCat("stat ", path));
    if (st.st_dev != dev) return Refuse(absl::StrCat(path, " is another file system, mounted there"), "unmount it before the capture");
    switch (st.st_mode & S_IFMT) {
      case S_IFDIR: {
        MOULT_ASSIGN_OR_RETURN(UniqueFd fd, OpenIn(folder, name.c_str(), O_RDONLY | O_DIRECTORY, path));
        return Walk(std::move(fd), path, depth + 1);
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
    if (HasAttributes(fd.get()) && with_attributes_++ == 0) first_with_attributes_ = path;
    image::PrivateFileT& file = *context_.image.private_files.back();
    file.size = static_cast<uint64_t>(st.st_size);
    return Annotate(context_.pages.StageFile(fd.get(), file.size, &file.runs), path);
  }

  // Of the file's own: a security module labels every file anew.
  static bool HasAttributes(int fd) {
    char names[4096];
    const ssize_t length = flistxattr(fd, names, sizeof(names));
    for (ssize_t at = 0; at < length; at += static_cast<ssize_t>(std::strlen(names + at)) + 1) {
      if (!absl::StartsWith(names + at, "security.")) return true;
    }
    return length < 0 && errno == ERANGE;
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
    if (path.size() >= image::kMaxPath) return Refuse(absl::StrCat("the path of a file in ", path.substr(0, 64), "... is too long"), "remove it before the capture");
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
  const std::function<bool()>& may_go_on_;
  std::map<std::pair<dev_t, ino_t>, uint32_t> by_inode_;
  size_t entries_ = 0;
  size_t with_attributes_ = 0;
  std::string first_with_attributes_;
};

// As the process sees it: an absolute link in the path leads to its root, not to ours.
UniqueFd OpenInRoot(const std::string& root, const char* folder) {
  const UniqueFd top(open(absl::StrCat(root, "/").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  open_how how{};
  how.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT;
  return UniqueFd(top.valid() ? static_cast<int>(syscall(SYS_openat2, top.get(), folder, &how, sizeof(how))) : -1);
}

}  // namespace

absl::Status CapturePrivateFiles(CaptureContext& context, const std::function<bool()>& may_go_on) {
  if (!context.image.sandboxed) return absl::OkStatus();
  Walker walker(context, may_go_on);
  for (const char* folder : image::kPrivateFolders) {
    UniqueFd fd = OpenInRoot(context.files.root(), folder);
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
  walker.Tell();
  return absl::OkStatus();
}

}  // namespace moult::engine
