// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_HOST_POOL_DAX_OPEN_DAX_H_
#define MOULT_HOST_POOL_DAX_OPEN_DAX_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "moult/base/status.h"
#include "pool/dax/device.h"
#include "pool/dax/volume.h"

namespace moult::host {

struct OpenedDax {
  std::unique_ptr<DaxDevice> device;
  DaxVolume volume;
};

// Errors: DaxDevice::Open, DaxVolume::Open.
inline absl::StatusOr<OpenedDax> OpenDax(const std::string& path, bool writable) {
  MOULT_ASSIGN_OR_RETURN(auto device, DaxDevice::Open(path, writable));
  MOULT_ASSIGN_OR_RETURN(DaxVolume volume, DaxVolume::Open(device.get()));
  return OpenedDax{std::move(device), std::move(volume)};
}

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_DAX_OPEN_DAX_H_
