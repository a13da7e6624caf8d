// SPDX-License-Identifier: Apache-2.0
//
// What the restore halves of the resources share. It lives in the *builder*: the process that is to become
// the function, while it still runs our code, with its final pid and its own descriptor table.
#ifndef MOULT_IMAGE_RESTORE_CONTEXT_H_
#define MOULT_IMAGE_RESTORE_CONTEXT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "image/page_source.h"
#include "moult/base/status.h"
#include "moult/base/unique_fd.h"
#include "moult/protocol/schema.h"

namespace moult::engine {

struct RestoreContext {
  const image::ProcessImageT& image;
  const image::ProcessT& process;
  PageSource pages;
  int first_free_fd;                    // every number from here on is ours, all below are the function's
  std::vector<int> first_numbers = {};       // by open file index: the lowest that it has, -1: none, it is in flight
  std::vector<UniqueFd> open_files = {};     // by open file index; filled as they are made
  std::vector<int> object_fds = {};          // by object index, O_RDWR; not owned, the programs use them later
  std::vector<std::vector<UniqueFd>> pipes = {};  // by pipe index: read end, write end while not yet claimed

  const image::OpenFileT& open_file(uint32_t index) const { return *image.open_files[index]; }
  const image::FileRefT& file(uint32_t index) const { return *image.files[index]; }
  // Errors name the descriptor: "fd 7 (/var/log/x)".
  std::string FdName(uint32_t open_file_index) const;
  absl::Status WithFdName(absl::Status status, uint32_t open_file_index) const {
    return status.ok() ? status : Annotate(status, FdName(open_file_index));
  }
  // Moves a descriptor out of the function's range of numbers.
  absl::StatusOr<UniqueFd> MoveUp(UniqueFd fd) const;
};

// Opens the file, which must be the very one that was captured or one of the same content as far as
// `content` of the reference asks (checked by CheckFiles before anything was built, so here only identity of
// what was checked matters).
absl::StatusOr<UniqueFd> OpenFileRef(const image::FileRefT& file, int flags);

// Makes `fd` a file of `size` bytes with the content of `runs` from the template's pages.
absl::Status FillFile(uint64_t size, const std::vector<image::PageRun>& runs, const PageSource& pages, int fd);

}  // namespace moult::engine

#endif  // MOULT_IMAGE_RESTORE_CONTEXT_H_
