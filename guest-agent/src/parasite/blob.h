// SPDX-License-Identifier: Apache-2.0
//
// The parasite's bytes, as linked into the agent.
#ifndef MOULT_PARASITE_BLOB_H_
#define MOULT_PARASITE_BLOB_H_

#include <cstddef>
#include <cstdint>

#include "parasite/program.h"

namespace moult::parasite {

extern "C" const unsigned char moult_parasite_begin[];
extern "C" const unsigned char moult_parasite_end[];

inline const unsigned char* BlobData() { return moult_parasite_begin; }
inline size_t BlobSize() { return static_cast<size_t>(moult_parasite_end - moult_parasite_begin); }
// Offsets of the entry points from the start of the blob.
uint64_t RunOffset();
uint64_t InitOffset();

}  // namespace moult::parasite

#endif  // MOULT_PARASITE_BLOB_H_
