// SPDX-License-Identifier: Apache-2.0
#include "resource/memfd/memfd.h"

#include <fcntl.h>
#include <unistd.h>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"

namespace moult::engine {

bool MatchesMemfd(const OpenDescription& description) {
  return S_ISREG(description.st.st_mode) && description.st.st_nlink == 0 && absl::StartsWith(description.link, "/memfd:");
}

absl::Status CaptureMemfd(CaptureContext& context, const OpenDescription& description, image::OpenFileT& file) {
  image::MemfdFileT resource;
  const std::string name(absl::StripSuffix(absl::StripPrefix(description.link, "/memfd:"), " (deleted)"));
  const UniqueFd readable(open(absl::StrCat("/proc/self/fd/", description.fd).c_str(), O_RDONLY | O_CLOEXEC));
  if (!readable.valid()) return ErrnoStatus("open again for reading");
  MOULT_ASSIGN_OR_RETURN(resource.object, context.objects.Add(readable.get(), image::ObjectKind::Memfd, name, context.pages));
  file.resource.Set(std::move(resource));
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> RestoreMemfd(RestoreContext& context, uint32_t index) {
  const image::OpenFileT& file = context.open_file(index);
  const uint32_t object = file.resource.AsMemfdFile()->object;
  const std::string path = absl::StrCat("/proc/self/fd/", context.object_fds[object]);
  UniqueFd fd(open(path.c_str(), static_cast<int>(file.flags & (O_ACCMODE | O_APPEND | O_LARGEFILE)) | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(absl::StrCat("open memfd ", context.image.objects[object]->name));
  if (file.position != 0 && lseek(fd.get(), static_cast<off_t>(file.position), SEEK_SET) < 0) return ErrnoStatus("seek");
  return fd;
}

}  // namespace moult::engine
