// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_HOST_POOL_DAX_DEVICE_H_
#define MOULT_HOST_POOL_DAX_DEVICE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "moult/base/unique_fd.h"
#include "pool/dax/medium.h"

namespace moult::host {

enum class DaxKind {
  kDevdax,     // a character device
  kFsdax,      // a file of a file system that is mounted with dax
  kPageCache,  // any other file: for trial, since its pages are in the page cache
};
const char* DaxKindText(DaxKind kind);

// A devdax device or a file, mapped whole.
class DaxDevice final : public DaxMedium {
 public:
  // `writable`: for LockForWriting, Store and Persist. Errors say what it is, when it is neither.
  static absl::StatusOr<std::unique_ptr<DaxDevice>> Open(const std::string& path, bool writable);
  // A file of this size, with all its blocks; whether it was made. kAlreadyExists: there is one that is not empty.
  static absl::StatusOr<bool> CreateFile(const std::string& path, uint64_t size);

  // Which file or device it is, whatever it is called.
  std::string node() const;

  ~DaxDevice() override;
  DaxDevice(const DaxDevice&) = delete;
  DaxDevice& operator=(const DaxDevice&) = delete;

  int fd() const { return fd_.get(); }
  DaxKind kind() const { return kind_; }

  const std::string& path() const override { return path_; }
  absl::Span<const std::byte> bytes() const override { return {data_, size_}; }
  uint64_t align() const override { return align_; }
  void Store(uint64_t at, absl::Span<const std::byte> from) override;
  void StoreWord(uint64_t at, uint64_t value) override;
  absl::Status Persist(DaxRange range) override;
  absl::Status LockForWriting(Clock::time_point deadline) override;
  absl::Status Hold(absl::Span<const DaxRange> ranges) override;
  absl::StatusOr<std::vector<DaxRange>> Held(DaxRange range) const override;

 private:
  DaxDevice(std::string path, UniqueFd fd) : path_(std::move(path)), fd_(std::move(fd)) {}
  absl::Status Recognize();
  absl::Status CheckThatMappingsHold() const;
  absl::Status Map(bool writable);

  const std::string path_;
  const UniqueFd fd_;
  DaxKind kind_ = DaxKind::kPageCache;
  bool writes_ = false;  // LockForWriting was called
  bool flush_ = false;  // durable by cache flushes, without the file system
  uint64_t align_ = 0;
  uint64_t size_ = 0;
  std::byte* data_ = nullptr;
};

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_DAX_DEVICE_H_
