// SPDX-License-Identifier: Apache-2.0
#include "moult/protocol/parse.h"

#include <cstring>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "moult/protocol/digest.h"
#include "moult/protocol/limits.h"
#include "moult/protocol/validate.h"
#include "unpack.h"

namespace moult::image {
namespace {

// The header of `manifest`; numbers are little-endian.
constexpr char kMagic[8] = {'M', 'O', 'U', 'L', 'T', 'M', 'F', '1'};
constexpr size_t kVersionAt = 8;
constexpr size_t kHeaderLengthAt = 12;
constexpr size_t kPayloadLengthAt = 16;
constexpr size_t kDigestAt = 24;
constexpr size_t kZerosAt = 56;

template <typename T>
T Load(std::string_view bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return flatbuffers::EndianScalar(value);
}

template <typename T>
void Store(std::string* bytes, size_t at, T value) {
  value = flatbuffers::EndianScalar(value);
  std::memcpy(bytes->data() + at, &value, sizeof(T));
}

absl::Status CheckHeader(std::string_view file) {
  const auto damaged = [](auto... what) { return absl::DataLossError(absl::StrCat("manifest: ", what...)); };
  if (file.size() < kManifestHeaderSize) return damaged("header is cut off at byte ", file.size());
  if (std::memcmp(file.data(), kMagic, sizeof(kMagic)) != 0) return damaged("bad magic at byte 0");
  const auto version = Load<uint32_t>(file, kVersionAt);
  if (version < kOldestFormatVersion || version > kFormatVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("manifest: format version ", version, ", this program reads versions ", kOldestFormatVersion, " to ",
                     kFormatVersion, "; use the program that wrote it, or capture again with this one"));
  }
  const auto header = Load<uint32_t>(file, kHeaderLengthAt);
  if (header != kManifestHeaderSize) return damaged("header length ", header, " at byte 12, not 64");
  const auto payload = Load<uint64_t>(file, kPayloadLengthAt);
  if (payload != file.size() - kManifestHeaderSize) {
    return damaged("payload length ", payload, " at byte 16, but the file holds ",
                   file.size() - kManifestHeaderSize);
  }
  if (payload > kMaxManifestPayload) return damaged("payload of ", payload, " bytes is over the limit");
  for (size_t i = kZerosAt; i < kManifestHeaderSize; ++i) {
    if (file[i] != 0) return damaged("byte ", i, " of the header is not zero");
  }
  const Sha256Digest digest = Sha256Of(file.substr(kManifestHeaderSize));
  if (std::memcmp(digest.data(), file.data() + kDigestAt, digest.size()) != 0) {
    return damaged("payload does not match its digest");
  }
  return absl::OkStatus();
}

template <typename T, typename Native>
std::string Serialize(const Native& object) {
  flatbuffers::FlatBufferBuilder builder(64 * 1024);
  builder.Finish(T::Pack(builder, &object));
  return {reinterpret_cast<const char*>(builder.GetBufferPointer()), builder.GetSize()};
}

}  // namespace

std::string EncodeManifestFile(std::string_view payload, uint32_t format_version) {
  std::string file(kManifestHeaderSize, '\0');
  std::memcpy(file.data(), kMagic, sizeof(kMagic));
  Store<uint32_t>(&file, kVersionAt, format_version);
  Store<uint32_t>(&file, kHeaderLengthAt, kManifestHeaderSize);
  Store<uint64_t>(&file, kPayloadLengthAt, payload.size());
  const Sha256Digest digest = Sha256Of(payload);
  std::memcpy(file.data() + kDigestAt, digest.data(), digest.size());
  return file.append(payload);
}

absl::StatusOr<std::unique_ptr<ManifestT>> ParseManifest(std::string_view file) {
  MOULT_RETURN_IF_ERROR(CheckHeader(file));
  MOULT_ASSIGN_OR_RETURN(auto manifest,
                         UnpackBuffer<Manifest>(file.substr(kManifestHeaderSize), kManifestFile, kMaxTables));
  MOULT_RETURN_IF_ERROR(ValidateManifest(*manifest));
  if (manifest->format_version == Load<uint32_t>(file, kVersionAt)) return manifest;
  return absl::DataLossError(
      absl::StrCat("manifest: format_version: ", manifest->format_version, ", not that of the header"));
}

absl::StatusOr<std::unique_ptr<ManifestT>> ParseDraftManifest(std::string_view payload) {
  if (payload.size() > kMaxManifestPayload) return absl::DataLossError("manifest: over the limit");
  return UnpackBuffer<Manifest>(payload, kManifestFile, kMaxTables);
}

absl::StatusOr<std::unique_ptr<ProcessImageT>> ParseImage(std::string_view file) {
  if (file.size() > kMaxImageSize) {
    return absl::DataLossError(absl::StrCat("image: ", file.size(), " bytes, over the limit"));
  }
  return UnpackBuffer<ProcessImage>(file, kImageFile, kMaxTables);
}

std::string SerializeImage(const ProcessImageT& image) { return Serialize<ProcessImage>(image); }
std::string SerializeManifest(const ManifestT& manifest) { return Serialize<Manifest>(manifest); }

}  // namespace moult::image
