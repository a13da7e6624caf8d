// SPDX-License-Identifier: Apache-2.0
#include <cerrno>
#include <cstdlib>

#include "capi/capi.h"

namespace moult::capi {
namespace {

struct LastError {
  std::string message;
  moult_code code = MOULT_OK;
};

LastError& Last() {
  thread_local LastError last;
  return last;
}

// By canonical code; the same table is in moult.h.
constexpr struct {
  int error;
  const char* name;
} kCodes[] = {
    {0, "OK"},
    {ECANCELED, "CANCELLED"},
    {EPROTO, "UNKNOWN"},
    {EINVAL, "INVALID_ARGUMENT"},
    {ETIMEDOUT, "DEADLINE_EXCEEDED"},
    {ENOENT, "NOT_FOUND"},
    {EEXIST, "ALREADY_EXISTS"},
    {EACCES, "PERMISSION_DENIED"},
    {ENOSPC, "RESOURCE_EXHAUSTED"},
    {EBUSY, "FAILED_PRECONDITION"},
    {EAGAIN, "ABORTED"},
    {ERANGE, "OUT_OF_RANGE"},
    {EOPNOTSUPP, "UNIMPLEMENTED"},
    {EIO, "INTERNAL"},
    {ECONNRESET, "UNAVAILABLE"},
    {EBADMSG, "DATA_LOSS"},
};
constexpr size_t kCount = sizeof(kCodes) / sizeof(kCodes[0]);

}  // namespace

int Report(int error, absl::StatusCode code, const char* message) {
  try {
    Last().message = message;
  } catch (...) {
    Last().message.clear();  // Out of memory for the message; the code still says it.
  }
  Last().code = static_cast<moult_code>(code);
  return -error;
}

int Report(const absl::Status& status) {
  if (status.ok()) return 0;
  auto code = static_cast<size_t>(status.code());
  // UNAUTHENTICATED is the only one that the header does not have.
  if (code >= kCount) code = static_cast<size_t>(absl::StatusCode::kPermissionDenied);
  return Report(kCodes[code].error, static_cast<absl::StatusCode>(code),
                std::string(status.message()).c_str());
}

absl::Status GiveText(const std::string& text, char** to) {
  *to = strdup(text.c_str());
  return *to != nullptr ? absl::OkStatus() : absl::ResourceExhaustedError("out of memory");
}

}  // namespace moult::capi

extern "C" {

const char* moult_version(void) { return MOULT_PROJECT_VERSION; }
const char* moult_last_error(void) { return moult::capi::Last().message.c_str(); }
enum moult_code moult_last_error_code(void) { return moult::capi::Last().code; }

const char* moult_code_name(enum moult_code code) {
  const auto i = static_cast<size_t>(code);
  return i < moult::capi::kCount ? moult::capi::kCodes[i].name : "UNKNOWN";
}

void moult_free(char* string) { free(string); }

}  // extern "C"
