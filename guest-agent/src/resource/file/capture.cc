// SPDX-License-Identifier: Apache-2.0
#include "resource/file/file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"

namespace moult::engine {
namespace {

// Access mode O_PATH has none.
bool IsPathOnly(const OpenDescription& description) { return (description.flags & O_PATH) != 0; }

// File systems whose files are windows on the kernel's state, not content.
struct PseudoFileSystem {
  int64_t magic;
  const char* name;
};
constexpr PseudoFileSystem kPseudoFileSystems[] = {
    {PROC_SUPER_MAGIC, "procfs"},     {SYSFS_MAGIC, "sysfs"},       {DEBUGFS_MAGIC, "debugfs"},
    {TRACEFS_MAGIC, "tracefs"},       {SECURITYFS_MAGIC, "securityfs"}, {CGROUP_SUPER_MAGIC, "cgroup"},
    {CGROUP2_SUPER_MAGIC, "cgroup2"}, {BPF_FS_MAGIC, "bpf"},        {0x19800202, "a POSIX message queue (mqueue)"},
    {SECRETMEM_MAGIC, "secret memory (memfd_secret)"},              {HUGETLBFS_MAGIC, "hugetlbfs"},
};

const char* PseudoName(const struct statfs& fs) {
  for (const PseudoFileSystem& pseudo : kPseudoFileSystems) {
    if (fs.f_type == pseudo.magic) return pseudo.name;
  }
  return nullptr;
}

absl::Status RefusePseudoFile(const OpenDescription& description) {
  struct statfs fs {};
  if (fstatfs(description.fd, &fs) < 0) return ErrnoStatus("fstatfs");
  const char* name = PseudoName(fs);
  if (name == nullptr) return absl::OkStatus();
  return Refuse(absl::StrCat("a file of ", name, " cannot be saved"), "close it before the dump");
}

// What must not have changed when the file is opened again. A log is appended to by others, too; a file that
// is only written may have grown; whatever the process reads must be what it was reading.
image::FileContent ContentFor(const OpenDescription& description) {
  if ((description.flags & O_ACCMODE) != O_WRONLY) return image::FileContent::Exact;
  return (description.flags & O_APPEND) != 0 ? image::FileContent::Any : image::FileContent::AtLeast;
}

}  // namespace

bool IsStatelessDevice(dev_t device) {
  if (major(device) != 1) return false;  // "mem" devices
  switch (minor(device)) {
    case 3:  // null
    case 5:  // zero
    case 7:  // full
    case 8:  // random
    case 9:  // urandom
      return true;
    default:
      return false;
  }
}

const char* PseudoFileSystemOf(const char* path) {
  struct statfs fs {};
  return statfs(path, &fs) == 0 ? PseudoName(fs) : nullptr;
}

bool MatchesPathOnly(const OpenDescription& description) { return IsPathOnly(description); }

absl::Status CapturePathOnly(CaptureContext& context, const OpenDescription& description, image::OpenFileT& file) {
  image::PathOnlyT resource;
  MOULT_ASSIGN_OR_RETURN(resource.file, context.files.Add(description.link, description.st, image::FileContent::Any, "O_PATH descriptor"));
  file.resource.Set(std::move(resource));
  return absl::OkStatus();
}

bool MatchesUnlinked(const OpenDescription& description) {
  return S_ISREG(description.st.st_mode) && description.st.st_nlink == 0 && !absl::StartsWith(description.link, "/memfd:");
}

absl::Status CaptureUnlinked(CaptureContext& context, const OpenDescription& description, image::OpenFileT& file) {
  MOULT_RETURN_IF_ERROR(RefusePseudoFile(description));
  image::UnlinkedRegularT resource;
  const std::string path(absl::StripSuffix(description.link, " (deleted)"));
  const auto kind = path == "/dev/zero" ? image::ObjectKind::SharedAnon : image::ObjectKind::UnlinkedFile;
  // A write-only descriptor cannot be read from, but the same file can be opened again through it.
  const UniqueFd readable(open(absl::StrCat("/proc/self/fd/", description.fd).c_str(), O_RDONLY | O_CLOEXEC));
  if (!readable.valid()) return ErrnoStatus("open again for reading");
  MOULT_ASSIGN_OR_RETURN(resource.object, context.objects.Add(readable.get(), kind, kind == image::ObjectKind::SharedAnon ? "" : path, context.pages));
  file.resource.Set(std::move(resource));
  return absl::OkStatus();
}

bool MatchesRegularFile(const OpenDescription& description) {
  return S_ISREG(description.st.st_mode) && description.st.st_nlink != 0;
}

absl::Status CaptureRegularFile(CaptureContext& context, const OpenDescription& description, image::OpenFileT& file) {
  MOULT_RETURN_IF_ERROR(RefusePseudoFile(description));
  image::RegularFileT resource;
  MOULT_ASSIGN_OR_RETURN(resource.file, context.files.Add(description.link, description.st, ContentFor(description), "open file"));
  file.resource.Set(std::move(resource));
  return absl::OkStatus();
}

bool MatchesDirectory(const OpenDescription& description) { return S_ISDIR(description.st.st_mode); }

absl::Status CaptureDirectory(CaptureContext& context, const OpenDescription& description, image::OpenFileT& file) {
  if (description.st.st_nlink == 0) return Refuse("the directory was removed", "close it before the dump");
  image::DirectoryT resource;
  MOULT_ASSIGN_OR_RETURN(resource.file, context.files.Add(description.link, description.st, image::FileContent::Any, "open directory"));
  file.resource.Set(std::move(resource));
  return absl::OkStatus();
}

bool MatchesDevice(const OpenDescription& description) {
  return S_ISCHR(description.st.st_mode) && IsStatelessDevice(description.st.st_rdev);
}

absl::Status CaptureDevice(CaptureContext& context, const OpenDescription& description, image::OpenFileT& file) {
  image::DeviceT resource;
  MOULT_ASSIGN_OR_RETURN(resource.file, context.files.Add(description.link, description.st, image::FileContent::Any, "open device"));
  file.resource.Set(std::move(resource));
  return absl::OkStatus();
}

}  // namespace moult::engine
