// SPDX-License-Identifier: Apache-2.0
//
// What a FlatBuffers verifier cannot say: the rules between fields that a restorer relies on. The list, rule
// by rule, is in spec.md.
#ifndef MOULT_PROTOCOL_VALIDATE_H_
#define MOULT_PROTOCOL_VALIDATE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "moult/protocol/schema.h"

namespace moult::image {

// OK, or kDataLoss with the path of the first field that breaks a rule:
// "image: processes[0].memory.vmas[3].start: not page aligned: 0x1001". `pages_size`: bytes in `pages`.
// Pure; takes time linear in the image (times log n for uniqueness).
absl::Status ValidateImage(const ProcessImageT& image, uint64_t pages_size);

// The same for the manifest, digest tree included ("manifest: pages_leaves: ...").
absl::Status ValidateManifest(const ManifestT& manifest);

// The manifest's counts are those of the image.
absl::Status ValidateMatch(const ManifestT& manifest, const ProcessImageT& image);

}  // namespace moult::image

#endif  // MOULT_PROTOCOL_VALIDATE_H_
