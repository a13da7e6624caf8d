// SPDX-License-Identifier: Apache-2.0
#include "moult/base/status.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <string>

namespace moult {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;

std::string TextOf(const absl::Status& status) { return std::string(status.message()); }

TEST(ErrnoStatus, ErrnoStatus_NamesCallErrnoAndRemedy_WhenTheErrnoHasOne) {
  const struct {
    int error;
    absl::StatusCode code;
    const char* message;
  } cases[] = {
      {EMFILE, absl::StatusCode::kResourceExhausted, "open x: EMFILE (Too many open files); raise the limit of open files (ulimit -n)"},
      {ENFILE, absl::StatusCode::kResourceExhausted, "open x: ENFILE (Too many open files in system); raise the system's limit of open files (/proc/sys/fs/file-max)"},
      {ENOMEM, absl::StatusCode::kResourceExhausted, "open x: ENOMEM (Cannot allocate memory); free memory, or raise what limits it (a cgroup, ulimit -v, vm.max_map_count)"},
      {ENOSPC, absl::StatusCode::kResourceExhausted, "open x: ENOSPC (No space left on device); free space there"},
      {EDQUOT, absl::StatusCode::kResourceExhausted, "open x: EDQUOT (Disk quota exceeded); free space there, or raise the quota"},
      {EPERM, absl::StatusCode::kPermissionDenied, "open x: EPERM (Operation not permitted); run as root, where no security policy forbids it"},
      {EACCES, absl::StatusCode::kPermissionDenied, "open x: EACCES (Permission denied); run as root, or give this user access"},
      {EIO, absl::StatusCode::kInternal, "open x: EIO (Input/output error); see the kernel's log (dmesg) for what failed"},
      {EAGAIN, absl::StatusCode::kUnavailable, "open x: EAGAIN (Resource temporarily unavailable); try again"},
      {ENOENT, absl::StatusCode::kNotFound, "open x: ENOENT (No such file or directory)"},
      {ESRCH, absl::StatusCode::kNotFound, "open x: ESRCH (No such process)"},
      {EFAULT, absl::StatusCode::kInternal, "open x: EFAULT (Bad address)"},
  };
  for (const auto& one : cases) {
    const absl::Status status = ErrnoStatus(one.error, "open x");
    EXPECT_EQ(status.code(), one.code) << one.message;
    EXPECT_EQ(TextOf(status), one.message);
    errno = one.error;
    EXPECT_EQ(ErrnoStatus("open x"), status);
  }
}

TEST(ErrnoStatus, ErrnoStatus_AddsNoRemedy_WhenTheCallHasItsOwn) {
  EXPECT_EQ(TextOf(ErrnoStatus(ENOMEM, "map it; close something")), "map it; close something: ENOMEM (Cannot allocate memory)");
}

TEST(ErrnoRemedy, ErrnoRemedy_IsEmpty_WhenItDependsOnTheCall) {
  EXPECT_EQ(ErrnoRemedy(ENOENT), "");
  EXPECT_EQ(ErrnoRemedy(0), "");
  EXPECT_EQ(ErrnoRemedy(EAGAIN), "try again");
}

TEST(CloneStatus, CloneStatus_NamesTheLimitOfProcesses_WhereItIsThat) {
  EXPECT_EQ(TextOf(CloneStatus(EAGAIN, "fork")), absl::StrCat("fork: EAGAIN (Resource temporarily unavailable); ", kCloneRemedy));
  EXPECT_EQ(CloneStatus(ENOMEM, "fork"), ErrnoStatus(ENOMEM, "fork"));
}

TEST(WithRemedy, WithRemedy_TakesThePlaceOfTheGeneralOne) {
  for (const int error : {EMFILE, ENFILE, ENOMEM, ENOSPC, EDQUOT, EPERM, EACCES, EIO, EAGAIN, ENOENT}) {
    const absl::Status general = Annotate(ErrnoStatus(error, "watch x"), "fd 7");
    const absl::Status own = WithRemedy(general, "raise the limit of watches");
    EXPECT_EQ(own.code(), general.code());
    EXPECT_THAT(TextOf(own), HasSubstr(absl::StrCat("fd 7: watch x: ", ErrnoName(error), " (")));
    EXPECT_THAT(TextOf(own), EndsWith("); raise the limit of watches"));
    EXPECT_THAT(TextOf(own), Not(HasSubstr(absl::StrCat("; ", error == ENOENT ? "?" : std::string(ErrnoRemedy(error))))));
    EXPECT_THAT(std::string(WithoutRemedy(general)), EndsWith(")"));
  }
  EXPECT_EQ(WithRemedy(absl::OkStatus(), "do something"), absl::OkStatus());
}

TEST(WithoutRemedy, WithoutRemedy_LeavesOtherTextAlone) {
  for (const char* text : {"", "try again", "it ended; restart it", "x: EAGAIN; try again later"}) {
    EXPECT_EQ(std::string(WithoutRemedy(absl::InternalError(text))), text);
  }
  EXPECT_EQ(std::string(WithoutRemedy(absl::InternalError("x; try again"))), "x");
}

}  // namespace
}  // namespace moult
