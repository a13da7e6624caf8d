// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_TEMPLATE_STAGING_H_
#define MOULT_TEMPLATE_STAGING_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "moult/base/unique_fd.h"

namespace moult::image {

// Where a template's files are until they are published, and how they are published.
//
// Two ways to publish: by *rename* of a sibling folder over DIR, which is atomic; or, where DIR cannot be
// replaced (a mount point, ".", a parent that is read-only), *into* DIR, file by file, the manifest last.
class Staging {
 public:
  static absl::StatusOr<std::unique_ptr<Staging>> Open(const std::string& dir, bool nameless);
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  // Removes everything that it made, unless Publish was OK.
  ~Staging();

  // An empty file, open for reading and writing; it will be called `name`. In order of publication.
  absl::StatusOr<UniqueFd> CreateFile(const char* name);
  // Syncs all files and gives them their names. On disk when OK.
  absl::Status Publish();

 private:
  struct File {
    std::string name;
    UniqueFd fd;  // a duplicate of the caller's
    bool named;
  };
  Staging(std::string dir, std::string parent_path, std::string base)
      : dir_(std::move(dir)), parent_path_(std::move(parent_path)), base_(std::move(base)) {}
  absl::Status OpenTarget(bool exists);
  // Removes what writers of the same target that were killed have left.
  void SweepLeftOvers();
  absl::Status MakePartial();
  absl::StatusOr<int> NamedFolder();
  absl::Status LinkInto(File* file, int folder);
  absl::Status Rename();
  void RemoveAll();

  const std::string dir_;          // as the caller gave it, for messages
  const std::string parent_path_;  // real path
  const std::string base_;         // name of DIR in its parent
  bool rename_ = true;
  bool nameless_ = true;
  UniqueFd target_;   // DIR, when it is there
  UniqueFd parent_;   // when rename_
  UniqueFd partial_;  // the sibling, once made
  std::string partial_name_;
  std::vector<File> files_;
  bool published_ = false;
};

}  // namespace moult::image

#endif  // MOULT_TEMPLATE_STAGING_H_
