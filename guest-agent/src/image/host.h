// SPDX-License-Identifier: Apache-2.0
//
// What the machine is, as far as a template depends on it.
#ifndef MOULT_IMAGE_HOST_H_
#define MOULT_IMAGE_HOST_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "moult/base/status.h"
#include "moult/protocol/schema.h"

namespace moult::engine {

absl::StatusOr<std::unique_ptr<image::RequirementsT>> DescribeHost();

// OK when this machine can run a template that needs `wanted`; else names the first thing that differs.
absl::Status CheckRequirements(const image::RequirementsT& wanted, const image::RequirementsT& host);

// The kernel's vdso as mapped in this process.
struct Vdso {
  uint64_t start = 0;
  uint64_t size = 0;
};
absl::StatusOr<Vdso> OwnVdso();
// Offset of a `syscall` instruction in the vdso's code.
absl::StatusOr<uint64_t> VdsoSyscallOffset();

std::string BootId();

}  // namespace moult::engine

#endif  // MOULT_IMAGE_HOST_H_
