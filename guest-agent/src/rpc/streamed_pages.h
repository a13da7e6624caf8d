// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_RPC_STREAMED_PAGES_H_
#define MOULT_RPC_STREAMED_PAGES_H_

#include "moult/base/status.h"
#include "moult/base/unique_fd.h"
#include "moult/protocol/schema.h"
#include "rpc/worker.h"

namespace moult::agent {

// Page content that came over the connection: in memory without a name, which is zeros again before the kernel
// gets it back. It is user state, and no function owns it.
class StreamedPages {
 public:
  // Takes in `size` bytes of data frames, and all of them whatever happens, so that the connection stays in step;
  // only an error of the connection itself ends it early.
  static absl::StatusOr<StreamedPages> Receive(Worker& worker, uint64_t size);
  StreamedPages(StreamedPages&&) = default;
  StreamedPages& operator=(StreamedPages&&) = delete;
  ~StreamedPages();

  int fd() const { return fd_.get(); }
  // Against the manifest's digests. kDataLoss names the chunk.
  absl::Status Verify(const image::ManifestT& manifest) const;

 private:
  StreamedPages(UniqueFd fd, uint64_t size) : fd_(std::move(fd)), size_(size) {}

  UniqueFd fd_;
  uint64_t size_;
};

// Overwrites a file from start to end with zeros, in place where its file system is in memory.
void WipeFile(int fd, uint64_t size);

// Wipes all files of a folder, and removes it.
void WipeFolder(const std::string& path);

}  // namespace moult::agent

#endif  // MOULT_RPC_STREAMED_PAGES_H_
