// SPDX-License-Identifier: Apache-2.0
//
// Errors: absl::Status everywhere. A message names the operation, the object, and the errno; where the
// user can do something about it, it ends with the remedy after "; ".
#ifndef MOULT_BASE_STATUS_H_
#define MOULT_BASE_STATUS_H_

#include <cerrno>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"

namespace moult {

// The symbolic name of an errno value ("ENOENT"), or "errno N" for one without a name.
std::string ErrnoName(int error);

// What the user can do about `error`, whatever call it comes from; empty where that depends on the call.
absl::string_view ErrnoRemedy(int error);

// A status for a failed system call: "<what>: ENOENT (No such file or directory)", with "; <ErrnoRemedy>" at its
// end unless `what` names a remedy itself, after a "; ". The code follows from `error`: ENOENT kNotFound,
// EPERM/EACCES kPermissionDenied, EEXIST kAlreadyExists, ENOSPC/EMFILE/ENOMEM kResourceExhausted, EINTR/EAGAIN
// kUnavailable, ESRCH kNotFound, EINVAL kInvalidArgument, others kInternal.
absl::Status ErrnoStatus(int error, absl::string_view what);
inline absl::Status ErrnoStatus(absl::string_view what) { return ErrnoStatus(errno, what); }

// The message of `status` without the ErrnoRemedy at its end: for where it is a part of a sentence.
absl::string_view WithoutRemedy(const absl::Status& status);
// `status` with `remedy` in the place of its ErrnoRemedy, for who knows better what to do.
absl::Status WithRemedy(const absl::Status& status, absl::string_view remedy);

// ErrnoStatus of clone(2), clone3(2) and fork(2), whose EAGAIN is a limit of processes.
inline constexpr absl::string_view kCloneRemedy = "raise the limit of processes (ulimit -u, pids.max of a cgroup), or end some";
absl::Status CloneStatus(int error, absl::string_view what);

// `status` with "<context>: " put before its message; an OK status stays as it is.
absl::Status Annotate(const absl::Status& status, absl::string_view context);

}  // namespace moult

#define MOULT_CONCAT_INNER(a, b) a##b
#define MOULT_CONCAT(a, b) MOULT_CONCAT_INNER(a, b)
#define MOULT_RETURN_IF_ERROR(expr)            \
  do {                                         \
    absl::Status moult_status_ = (expr);       \
    if (!moult_status_.ok()) return moult_status_; \
  } while (0)
#define MOULT_ASSIGN_OR_RETURN(lhs, expr) \
  MOULT_ASSIGN_OR_RETURN_IMPL(MOULT_CONCAT(moult_statusor_, __LINE__), lhs, expr)
#define MOULT_ASSIGN_OR_RETURN_IMPL(statusor, lhs, expr) \
  auto statusor = (expr);                                \
  if (!statusor.ok()) return statusor.status();          \
  lhs = std::move(statusor).value()

#endif  // MOULT_BASE_STATUS_H_
