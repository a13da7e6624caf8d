// SPDX-License-Identifier: Apache-2.0
#include "moult/base/status.h"

#include <cerrno>
#include <cstring>

namespace moult {

std::string ErrnoName(int error) {
  const char* name = strerrorname_np(error);
  return name != nullptr ? std::string(name) : absl::StrCat("errno ", error);
}

absl::Status ErrnoStatus(int error, absl::string_view what) {
  absl::Status from_errno = absl::ErrnoToStatus(error, "");
  absl::StatusCode code = from_errno.code();
  if (error == ESRCH || error == ENODEV) code = absl::StatusCode::kNotFound;
  // An argument that the kernel does not like is ours, and no fault of who called us.
  if (code == absl::StatusCode::kUnknown || error == EFAULT) code = absl::StatusCode::kInternal;
  const char* text = strerrordesc_np(error);
  // The one whose remedy is the same wherever it comes from.
  const absl::string_view remedy = error == EMFILE ? "; raise the limit of open files (ulimit -n)" : "";
  return absl::Status(code,
                      absl::StrCat(what, ": ", ErrnoName(error), " (", text != nullptr ? text : "?", ")", remedy));
}

absl::Status Annotate(const absl::Status& status, absl::string_view context) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(context, ": ", status.message()));
}

}  // namespace moult
