// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_RESOURCE_MEMORY_RESTORE_H_
#define MOULT_RESOURCE_MEMORY_RESTORE_H_

#include "image/plan.h"

namespace moult::engine {

// A range that neither the template nor this tool has mapped, with room around it.
absl::StatusOr<ptrace::RemotePtr> FindRegionHole(const image::MemoryMapT& memory, const std::vector<proc::MapsEntry>& own,
                                                 uint64_t size);

// Unmaps all that the builder inherited but the region, and moves the kernel's vdso and vvar to their places.
absl::Status PlanClearAddressSpace(const image::MemoryMapT& memory, const std::vector<proc::MapsEntry>& own,
                                   const RegionLayout& region, ptrace::ProgramBuilder& program);
// Bytes of content that cannot be attached and are copied by way of a view of the window.
uint64_t CopiedBytes(const image::ProcessImageT& image, const FdNumbers& numbers);

// Mappings, their content, protections and advice. `view`: address of a hole of CopiedBytes.
FillTimes PlanMappings(const image::ProcessImageT& image, const FdNumbers& numbers, uint64_t view, ptrace::ProgramBuilder& program);
// What must follow all mappings: brk, arguments, exe; locks of future mappings; seals.
void PlanMemoryMap(const image::ProcessImageT& image, const FdNumbers& numbers, ptrace::ProgramBuilder& program);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_MEMORY_RESTORE_H_
