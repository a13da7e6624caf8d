// SPDX-License-Identifier: Apache-2.0
#include "parasite/blob.h"

#include <cstring>

namespace moult::parasite {
namespace {

MoultBlobHeader Header() {
  MoultBlobHeader header;
  std::memcpy(&header, BlobData(), sizeof(header));
  return header;
}

}  // namespace

uint64_t RunOffset() { return Header().run; }
uint64_t InitOffset() { return Header().init; }

}  // namespace moult::parasite
