// SPDX-License-Identifier: Apache-2.0
//
// Where the guest sees which memory of the host: QEMU is asked, nothing is assumed. In the main loop's
// thread.
#ifndef MOULT_ADAPTERS_QEMU_MEMORY_MAP_H_
#define MOULT_ADAPTERS_QEMU_MEMORY_MAP_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "moult/moult.h"
#include "qemu_api.h"
#include "settings.h"

namespace moult::qemu {

struct Backend {
  std::string id;
  MemoryRegion* region = nullptr;
  void* hva = nullptr;
  uint64_t length = 0;
  int fd = -1;  // QEMU's own
};

// Part of a backend, as the guest sees it.
struct Placed {
  uint64_t gpa;
  uint64_t length;
  const Backend* backend;
  uint64_t offset;  // in the backend
};

// kNotFound: there is no such backend. kFailedPrecondition: a kind whose pages cannot be given back (RAM).
absl::StatusOr<Backend> FindRam(const Api& api, const std::string& id);
absl::StatusOr<Backend> FindWindow(const Api& api, const std::string& id);

// All parts of `backends` in the guest's address space at this moment, by address. Neighbours are joined.
std::vector<Placed> Locate(const Api& api, const std::vector<Backend>& backends);

// As libmoult takes it.
std::vector<moult_region> Regions(const std::vector<Placed>& ram);
std::vector<moult_window> Windows(const std::vector<Backend>& windows);

}  // namespace moult::qemu

#endif  // MOULT_ADAPTERS_QEMU_MEMORY_MAP_H_
