// SPDX-License-Identifier: Apache-2.0
//
// Which blocks are free, and which of them a template gets. Pure.
#ifndef MOULT_HOST_POOL_DAX_ALLOCATE_H_
#define MOULT_HOST_POOL_DAX_ALLOCATE_H_

#include <vector>

#include "pool/dax/layout.h"

namespace moult::host {

// All blocks that no entry has, as runs, rising, none adjacent.
std::vector<DaxRun> FreeRuns(const DaxGeometry& geometry, const DaxDirectory& directory);
// `runs` without the blocks that `held`, rising, touches.
std::vector<DaxRun> WithoutHeld(const std::vector<DaxRun>& runs, const std::vector<DaxRange>& held,
                                uint64_t block);
uint64_t CountBlocks(const std::vector<DaxRun>& runs);
// `count` blocks in as few runs as there can be: the smallest run that has them all, else the largest first.
// Empty: there are not so many.
std::vector<DaxRun> ChooseRuns(std::vector<DaxRun> free, uint64_t count);

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_DAX_ALLOCATE_H_
