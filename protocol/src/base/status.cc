// SPDX-License-Identifier: Apache-2.0
#include "moult/base/status.h"

#include <cerrno>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"

namespace moult {
namespace {

// Those whose remedy is the same wherever they come from.
constexpr struct {
  int error;
  absl::string_view remedy;
} kRemedies[] = {
    {EMFILE, "raise the limit of open files (ulimit -n)"},
    {ENFILE, "raise the system's limit of open files (/proc/sys/fs/file-max)"},
    {ENOMEM, "free memory, or raise what limits it (a cgroup, ulimit -v, vm.max_map_count)"},
    {ENOSPC, "free space there"},
    {EDQUOT, "free space there, or raise the quota"},
    {EPERM, "run as root, where no security policy forbids it"},
    {EACCES, "run as root, or give this user access"},
    {EIO, "see the kernel's log (dmesg) for what failed"},
    {EAGAIN, "try again"},
};

}  // namespace

std::string ErrnoName(int error) {
  const char* name = strerrorname_np(error);
  return name != nullptr ? std::string(name) : absl::StrCat("errno ", error);
}

absl::string_view ErrnoRemedy(int error) {
  for (const auto& known : kRemedies) {
    if (known.error == error) return known.remedy;
  }
  return "";
}

absl::Status ErrnoStatus(int error, absl::string_view what) {
  absl::Status from_errno = absl::ErrnoToStatus(error, "");
  absl::StatusCode code = from_errno.code();
  if (error == ESRCH || error == ENODEV) code = absl::StatusCode::kNotFound;
  // An argument that the kernel does not like is ours, and no fault of who called us.
  if (code == absl::StatusCode::kUnknown || error == EFAULT) code = absl::StatusCode::kInternal;
  const char* text = strerrordesc_np(error);
  const absl::Status status(code, absl::StrCat(what, ": ", ErrnoName(error), " (", text != nullptr ? text : "?", ")"));
  const absl::string_view remedy = ErrnoRemedy(error);
  return remedy.empty() || absl::StrContains(what, "; ") ? status : WithRemedy(status, remedy);
}

absl::string_view WithoutRemedy(const absl::Status& status) {
  absl::string_view message = status.message();
  for (const auto& known : kRemedies) {
    absl::string_view rest = message;
    if (absl::ConsumeSuffix(&rest, known.remedy) && absl::ConsumeSuffix(&rest, "; ")) return rest;
  }
  return message;
}

absl::Status WithRemedy(const absl::Status& status, absl::string_view remedy) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(WithoutRemedy(status), "; ", remedy));
}
absl::Status CloneStatus(int error, absl::string_view what) {
  const absl::Status status = ErrnoStatus(error, what);
  return error == EAGAIN ? WithRemedy(status, kCloneRemedy) : status;
}

absl::Status Annotate(const absl::Status& status, absl::string_view context) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(context, ": ", status.message()));
}

}  // namespace moult
