// SPDX-License-Identifier: Apache-2.0
//
// Reading from /proc. Errors come from ErrnoStatus and name the path; a process that has gone shows as
// kNotFound (ENOENT on open, ESRCH on read).
#ifndef MOULT_PROC_READ_H_
#define MOULT_PROC_READ_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace moult::proc {

// The whole file, read to its end. `dirfd` as for openat(2).
absl::StatusOr<std::string> ReadFile(const std::string& path);
absl::StatusOr<std::string> ReadFileAt(int dirfd, const char* name);
// The same of a file that is one record (fdinfo): its end is known without another read, as the kernel gives a record at
// once where it fits.
absl::StatusOr<std::string> ReadRecordAt(int dirfd, const char* name);
// Its first lines: what one read gives, which is at least one record of a file that is made of records. To read all of
// /proc/cpuinfo takes long where there are many processors.
absl::StatusOr<std::string> ReadBeginning(const std::string& path);

absl::StatusOr<std::string> ReadLink(const std::string& path);
absl::StatusOr<std::string> ReadLinkAt(int dirfd, const char* name);

// The names in a directory that are decimal numbers (task, fd), rising. The directory is a snapshot only as
// far as the kernel makes it one: entries may come and go meanwhile.
absl::StatusOr<std::vector<int>> ListNumeric(const std::string& path);
// Lists the directory open as `dirfd` from its beginning; its own position does not change.
absl::StatusOr<std::vector<int>> ListNumeric(int dirfd);

}  // namespace moult::proc

#endif  // MOULT_PROC_READ_H_
