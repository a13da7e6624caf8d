// SPDX-License-Identifier: Apache-2.0
//
// The pure half of reading a template: bytes in, checked objects out, no files.
#ifndef MOULT_PROTOCOL_PARSE_H_
#define MOULT_PROTOCOL_PARSE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "moult/protocol/limits.h"
#include "moult/protocol/schema.h"

namespace moult::image {

inline constexpr size_t kManifestHeaderSize = 64;

// A whole `manifest` file around a finished FlatBuffer Manifest.
std::string EncodeManifestFile(std::string_view payload, uint32_t format_version = kFormatVersion);

// Checks header, digest, structure and ValidateManifest. kFailedPrecondition for another format version,
// kDataLoss for everything else; messages start with "manifest: ".
absl::StatusOr<std::unique_ptr<ManifestT>> ParseManifest(std::string_view file);

// The manifest of a template that is not written yet: structure only, no header. kDataLoss.
absl::StatusOr<std::unique_ptr<ManifestT>> ParseDraftManifest(std::string_view payload);

// Checks the structure of an `image` file (FlatBuffers verifier, no part used twice) and unpacks it. Not
// ValidateImage, which needs the size of `pages`. kDataLoss; messages start with "image: ".
absl::StatusOr<std::unique_ptr<ProcessImageT>> ParseImage(std::string_view file);

// The FlatBuffer of a valid object (ValidateImage, ValidateManifest): required parts that are missing abort.
std::string SerializeImage(const ProcessImageT& image);
std::string SerializeManifest(const ManifestT& manifest);

}  // namespace moult::image

#endif  // MOULT_PROTOCOL_PARSE_H_
