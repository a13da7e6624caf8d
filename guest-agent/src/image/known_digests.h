// SPDX-License-Identifier: Apache-2.0
//
// Digests of files that are computed while the process that uses them runs, so that it need not stand still
// for them.
#ifndef MOULT_IMAGE_KNOWN_DIGESTS_H_
#define MOULT_IMAGE_KNOWN_DIGESTS_H_

#include <sys/stat.h>
#include <sys/types.h>

#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <set>

#include "moult/base/status.h"
#include "moult/protocol/digest.h"
#include "moult/protocol/schema.h"

namespace moult::engine {

// A file as it is from one write to the next: a change of content changes ctime, which no one can set.
struct FileVersion {
  uint64_t dev = 0;
  uint64_t ino = 0;
  uint64_t size = 0;
  int64_t mtime_ns = 0;
  int64_t ctime_ns = 0;

  auto operator<=>(const FileVersion&) const = default;
};
FileVersion VersionOf(const struct stat& st);
FileVersion VersionOf(const image::FileRefT& file);

class KnownDigests {
 public:
  // Digests what `pid` maps or can read through its descriptors, but for what is known already. Never fails:
  // what is not known is digested when the process stands still. That holds also for files that were written
  // to a moment ago: one more write might leave their times as they are. `may_go_on` is asked before each
  // file.
  void Learn(pid_t pid, const std::function<bool()>& may_go_on);
  // Null: not known.
  const image::Sha256Digest* Find(const FileVersion& version) const;

 private:
  // False: it cannot be opened, or is not what it was when it was looked at.
  bool LearnOne(const char* path);
  bool LearnMapped(pid_t pid, const std::function<bool()>& may_go_on);
  bool LearnOpen(pid_t pid, const std::function<bool()>& may_go_on);

  std::map<FileVersion, image::Sha256Digest> digests_;
  std::set<uint64_t> leased_;  // inodes, of whatever file system
};

}  // namespace moult::engine

#endif  // MOULT_IMAGE_KNOWN_DIGESTS_H_
