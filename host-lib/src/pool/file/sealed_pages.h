// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_HOST_POOL_FILE_SEALED_PAGES_H_
#define MOULT_HOST_POOL_FILE_SEALED_PAGES_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "moult/base/unique_fd.h"
#include "moult/protocol/template_reader.h"

namespace moult::host {

// The page content of a template in a sealed memfd, of which a host has one: it can neither change nor shrink under a
// VM that has it mapped, whatever becomes of the file that it was read from. Processes find each other's copies through
// a note in the store, `.sealed-DIGEST`, a line "pid start-time descriptor" for each, and open them in /proc.
class SealedPages {
 public:
  // Verified against the manifest, whoever made it, and so is the file. Null: this process cannot share, since it may not write to the
  // store, or may not look at a process that has a copy; one for itself would cost what sharing is to save.
  static absl::StatusOr<std::shared_ptr<const SealedPages>> Obtain(const std::string& store,
                                                                   const std::string& digest,
                                                                   const image::TemplateReader& reader);
  SealedPages(const SealedPages&) = delete;
  SealedPages& operator=(const SealedPages&) = delete;
  ~SealedPages();

  int fd() const { return fd_.get(); }

 private:
  SealedPages(std::string note, UniqueFd fd) : note_(std::move(note)), fd_(std::move(fd)) {}

  const std::string note_;
  const UniqueFd fd_;
};

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_FILE_SEALED_PAGES_H_
