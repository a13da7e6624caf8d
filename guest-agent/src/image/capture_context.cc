// SPDX-License-Identifier: Apache-2.0
#include "image/capture_context.h"

#include <algorithm>

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "absl/strings/match.h"

namespace moult::engine {

absl::Status Refuse(absl::string_view object, absl::string_view remedy) {
  return absl::FailedPreconditionError(absl::StrCat(object, "; ", remedy));
}

int64_t StatTimeNs(const struct timespec& time) { return time.tv_sec * 1'000'000'000 + time.tv_nsec; }

absl::StatusOr<uint32_t> FileTable::Add(const std::string& path, const struct stat& st, image::FileContent content,
                                        const std::string& what) {
  auto& known = by_inode_[{st.st_dev, st.st_ino}];
  for (const uint32_t index : known) {
    image::FileRefT& file = *image_.files[index];
    if (file.path != path) continue;
    file.content = std::min(file.content, content);  // the strictest user decides
    return index;
  }
  const std::string in_root = absl::StrCat(root_, path);
  struct stat named {};
  const int failed = S_ISLNK(st.st_mode) ? lstat(in_root.c_str(), &named) : stat(in_root.c_str(), &named);
  if (path.empty() || path[0] != '/' || failed < 0) {
    return Refuse(absl::StrCat(what, ": its file ", path, " cannot be reached by that name"), "put the file back or end its use");
  }
  if (named.st_dev != st.st_dev || named.st_ino != st.st_ino) {
    return Refuse(absl::StrCat(what, ": ", path, " is another file by now (replaced, or mounted over)"),
                  "restart the process so that it uses the new file");
  }
  auto file = std::make_unique<image::FileRefT>();
  file->path = path;
  file->dev = st.st_dev;
  file->ino = st.st_ino;
  file->size = static_cast<uint64_t>(st.st_size);
  file->mode = st.st_mode;
  file->mtime_ns = StatTimeNs(st.st_mtim);
  file->ctime_ns = StatTimeNs(st.st_ctim);
  file->rdev = st.st_rdev;
  file->content = content;
  image_.files.push_back(std::move(file));
  known.push_back(static_cast<uint32_t>(image_.files.size() - 1));
  return known.back();
}

void FileTable::ComeAlong(absl::string_view folder) {
  for (auto& file : image_.files) {
    const absl::string_view path = file->path;
    if (path == folder || (absl::StartsWith(path, folder) && path[folder.size()] == '/')) {
      file->content = image::FileContent::Any;
    }
  }
}

void FileTable::Finish() {
  for (const uint32_t index : changeable_) {
    image_.files[index]->content = std::max(image_.files[index]->content, image::FileContent::AtLeast);
  }
}

absl::StatusOr<uint32_t> ObjectTable::Add(int fd, image::ObjectKind kind, const std::string& name, PageSink& pages) {
  struct stat st {};
  if (fstat(fd, &st) < 0) return ErrnoStatus(absl::StrCat("stat ", name));
  const auto [it, added] = by_inode_.try_emplace({st.st_dev, st.st_ino}, static_cast<uint32_t>(image_.objects.size()));
  if (!added) return it->second;
  struct statfs fs {};
  if (fstatfs(fd, &fs) < 0) return ErrnoStatus(absl::StrCat("fstatfs ", name));
  if (fs.f_type == HUGETLBFS_MAGIC) return Refuse(absl::StrCat(name, " is hugetlb memory (MFD_HUGETLB)"), "use an ordinary memfd or transparent huge pages");
  auto object = std::make_unique<image::MemoryObjectT>();
  object->kind = kind;
  object->name = name;
  object->size = static_cast<uint64_t>(st.st_size);
  object->mode = st.st_mode & 07777;
  object->uid = st.st_uid;
  object->gid = st.st_gid;
  if (kind == image::ObjectKind::Memfd) {
    const int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0) return ErrnoStatus(absl::StrCat("get seals of memfd ", name));
    object->seals = static_cast<uint32_t>(seals);
  }
  MOULT_RETURN_IF_ERROR(Annotate(pages.StageFile(fd, object->size, &object->runs), name));
  image_.objects.push_back(std::move(object));
  return it->second;
}

}  // namespace moult::engine
