// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_HOST_MEMORY_CUT_RUNS_H_
#define MOULT_HOST_MEMORY_CUT_RUNS_H_

#include <algorithm>
#include <vector>

#include "memory/guest_memory.h"

namespace moult::host {

// The guest's kernel sees no border where two regions touch, and its runs of pages go across. Cuts them there, so that
// each lies in one region, or in none. `part(run, at, length)`: that piece of a run, which has gpa() and length().
template <typename Run, typename Part>
void CutAtRegions(const GuestMemory& memory, std::vector<Run>* runs, Part part) {
  const auto crosses = [&](const Run& run) { return memory.LengthWithin(GuestPhys(run.gpa()), run.length()) < run.length(); };
  if (std::none_of(runs->begin(), runs->end(), crosses)) return;
  std::vector<Run> cut;
  for (const Run& run : *runs) {
    for (uint64_t at = 0; at < run.length();) {
      const uint64_t length = memory.LengthWithin(GuestPhys(run.gpa() + at), run.length() - at);
      cut.push_back(part(run, at, length));
      at += length;
    }
  }
  *runs = std::move(cut);
}

// Of runs that say nothing but where they are.
template <typename Run>
void CutAtRegions(const GuestMemory& memory, std::vector<Run>* runs) {
  CutAtRegions(memory, runs, [](const Run& run, uint64_t at, uint64_t length) { return Run(run.gpa() + at, length); });
}

}  // namespace moult::host

#endif  // MOULT_HOST_MEMORY_CUT_RUNS_H_
