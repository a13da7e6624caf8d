// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_TEMPLATE_CHUNK_HASHER_H_
#define MOULT_TEMPLATE_CHUNK_HASHER_H_

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "moult/protocol/digest.h"

namespace moult::image {

// Reads exactly `out` at `offset`; a file that ends before is kDataLoss. `name` is for messages.
absl::Status PreadAll(int fd, uint64_t offset, absl::Span<std::byte> out, const char* name);

// Leaf digests of a growing file, read back from the page cache: writing and hashing go on beside each other.
class ChunkHasher {
 public:
  ChunkHasher(int fd, uint32_t format_version, bool background)
      : fd_(fd), format_version_(format_version), background_(background) {}
  ~ChunkHasher();

  // The file's first `size` bytes are final. Never lower than before.
  void Advance(uint64_t size);
  // All leaves of a file of `size` bytes. Ends the thread; call once.
  absl::StatusOr<std::vector<Sha256Digest>> Finish(uint64_t size);

 private:
  struct Leaf {
    uint64_t chunk;
    Sha256Digest digest;
  };
  void Run();
  void Stop();
  // Takes the next whole or last chunk that is final and hashes it; false: none now.
  bool HashNext(std::unique_lock<std::mutex>* lock, std::vector<std::byte>* buffer);

  const int fd_;
  const uint32_t format_version_;
  const bool background_;
  std::thread thread_;
  std::mutex mutex_;  // guards all below
  std::condition_variable more_;
  uint64_t final_ = 0;  // bytes that will not change
  uint64_t next_ = 0;   // first chunk nobody has taken
  bool last_ = false;   // `final_` is the file's size
  bool stop_ = false;
  absl::Status status_;
  std::vector<Leaf> leaves_;
};

}  // namespace moult::image

#endif  // MOULT_TEMPLATE_CHUNK_HASHER_H_
