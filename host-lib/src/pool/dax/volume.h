// SPDX-License-Identifier: Apache-2.0
//
// Templates on a medium. A change is whole or not there, whatever store it is cut at; see layout.h.
//
// Readers take no lock. They read the directory, hold the blocks of what they want, and read the directory
// again: if it is still there, then whoever removes it later finds the blocks held before he uses them again;
// if not, they have read nothing of it. So blocks of a removed template stay as they are for as long as
// somebody holds them, and no record of that is needed on the medium: holds go with their process.
#ifndef MOULT_HOST_POOL_DAX_VOLUME_H_
#define MOULT_HOST_POOL_DAX_VOLUME_H_

#include <functional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "pool/dax/layout.h"
#include "pool/dax/medium.h"
#include "pool/transfer_progress.h"

namespace moult::host {

struct DaxFormat {
  uint64_t size = 0;  // 0: all of the medium
  uint64_t block = kDaxBlock;
  bool force = false;  // what is on it goes
};

// kAlreadyExists: there is something on it, and no `force`; kFailedPrecondition: somebody holds a part of it,
// or its alignment is of no use to windows. Cut short, it leaves what is not formatted.
absl::Status FormatDax(DaxMedium* medium, const DaxFormat& format, DaxMedium::Clock::time_point deadline);

struct DaxContent {
  std::string name;
  std::string tenant;
  std::string_view manifest;  // file
  std::string_view image;     // file
  uint64_t pages_size = 0;
  // Fills `to` with pages that are checked, from an offset on.
  std::function<absl::Status(uint64_t at, absl::Span<std::byte> to)> read_pages;
};

struct DaxSpace {
  uint64_t total = 0;  // bytes
  uint64_t used = 0;   // of templates
  uint64_t held = 0;   // of removed templates that are still in use
};

// One thread at a time; any number of volumes, in any number of processes, on one device or file.
class DaxVolume {
 public:
  using Clock = DaxMedium::Clock;

  // kNotFound: not formatted; kFailedPrecondition: something else is on it, or a newer version; kDataLoss.
  // `medium` must outlive it.
  static absl::StatusOr<DaxVolume> Open(DaxMedium* medium);

  const DaxGeometry& geometry() const { return geometry_; }
  // What is committed. kUnavailable: it was formatted anew.
  absl::StatusOr<DaxDirectory> Read() const;
  // Holds it, and gives its entry. kNotFound.
  absl::StatusOr<DaxEntry> Take(const std::string& name, Clock::time_point deadline);
  // kAlreadyExists; kResourceExhausted: no room.
  absl::Status Add(const DaxContent& content, Clock::time_point deadline, const TransferProgress& progress = nullptr);
  absl::Status Remove(const std::string& name, Clock::time_point deadline);
  absl::StatusOr<DaxSpace> Space() const;

 private:
  DaxVolume(DaxMedium* medium, const DaxGeometry& geometry) : medium_(medium), geometry_(geometry) {}
  absl::Status CheckSame() const;
  // Before anything is written.
  absl::Status BeginWriting(Clock::time_point deadline);
  absl::StatusOr<std::vector<DaxRun>> Free(const DaxDirectory& directory) const;
  absl::Status WriteContent(const DaxEntry& entry, const DaxContent& content, Clock::time_point deadline,
                            const TransferProgress& progress);
  absl::Status Commit(DaxDirectory directory);

  DaxMedium* const medium_;
  const DaxGeometry geometry_;
};

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_DAX_VOLUME_H_
