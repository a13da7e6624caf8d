// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <map>

#include "absl/strings/str_split.h"
#include "validate_internal.h"

namespace moult::image::validate {
namespace {

using Known = std::map<absl::string_view, mode_t>;  // type by path

absl::Status CheckPath(const Path& here, const PrivateFileT& file, const Known& known) {
  MOULT_RETURN_IF_ERROR(CheckText(here, "path", file.path, kMaxPath - 1));
  if (file.path.empty() || file.path[0] != '/') return here.BadField("path", "not absolute: ", file.path);
  const absl::string_view path = file.path;
  for (const absl::string_view part : absl::StrSplit(path.substr(1), '/')) {
    if (part.empty() || part == "." || part == "..") return here.BadField("path", "not a plain path: ", file.path);
  }
  if (known.contains(path)) return here.BadField("path", "is there twice: ", file.path);
  if (std::find(std::begin(kPrivateFolders), std::end(kPrivateFolders), path) != std::end(kPrivateFolders)) {
    return S_ISDIR(file.mode) ? absl::OkStatus() : here.BadField("mode", file.mode, " is no folder's");
  }
  const auto parent = known.find(path.substr(0, path.rfind('/')));
  if (parent != known.end() && parent->second == S_IFDIR) return absl::OkStatus();
  return here.BadField("path", "its folder is not listed before it: ", file.path);
}

absl::Status CheckContent(const Path& here, const PrivateFileT& file, uint64_t pages_size) {
  const mode_t type = file.mode & S_IFMT;
  if ((type != S_IFDIR && type != S_IFREG && type != S_IFLNK && type != S_IFIFO) || file.mode > 0177777) {
    return here.BadField("mode", file.mode, " is not that of a folder, file, link or FIFO");
  }
  const bool content = type == S_IFREG && file.same_as == kNone;
  if (!content && (file.size != 0 || !file.runs.empty())) return here.Bad("has content, but is no file of its own");
  if (file.size > kMaxFileOffset - kPageSize) return here.BadField("size", file.size, " is over the limit");
  MOULT_RETURN_IF_ERROR(CheckText(here, "target", file.target, kMaxPath - 1));
  const bool link = type == S_IFLNK && file.same_as == kNone;
  if (link == file.target.empty()) return here.BadField("target", link ? "missing" : "of what is no link");
  const uint64_t end = (file.size + kPageSize - 1) / kPageSize * kPageSize;
  return CheckRuns(here, "runs", file.runs, end, pages_size);
}

absl::Status CheckSameAs(const Path& here, const ProcessImageT& image, size_t index) {
  const PrivateFileT& file = *image.private_files[index];
  if (file.same_as == kNone) return absl::OkStatus();
  if (file.same_as >= index) return here.BadField("same_as", file.same_as, " is not an earlier element");
  const PrivateFileT& other = *image.private_files[file.same_as];
  if (other.same_as != kNone || S_ISDIR(file.mode) || (other.mode & S_IFMT) != (file.mode & S_IFMT)) {
    return here.BadField("same_as", file.same_as, " can have no such further name");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckPrivateFiles(const Path& at, const ProcessImageT& image, uint64_t pages_size) {
  MOULT_RETURN_IF_ERROR(CheckCount(at, "private_files", image.private_files, kMaxPrivateFiles));
  Known known;
  for (size_t i = 0; i < image.private_files.size(); ++i) {
    const PrivateFileT& file = *image.private_files[i];
    const Path here(at, "private_files", i);
    MOULT_RETURN_IF_ERROR(CheckPath(here, file, known));
    MOULT_RETURN_IF_ERROR(CheckContent(here, file, pages_size));
    MOULT_RETURN_IF_ERROR(CheckSameAs(here, image, i));
    known.emplace(file.path, file.mode & S_IFMT);
  }
  return absl::OkStatus();
}

}  // namespace moult::image::validate
