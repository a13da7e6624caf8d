// SPDX-License-Identifier: Apache-2.0
#include "moult/protocol/parse.h"

#include <cstring>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "flatbuffers/minireflect.h"
#include "moult/base/status.h"
#include "moult/protocol/digest.h"
#include "moult/protocol/limits.h"
#include "moult/protocol/validate.h"

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

// Counts the bytes of all strings, vectors and tables that unpacking would copy, and gives up over `budget`.
// A buffer in which two fields point at one part is small on disk and huge when unpacked; our writer never
// makes one, so the sum of an honest buffer is below its size.
class UnpackCost {
 public:
  explicit UnpackCost(uint64_t budget) : budget_(budget) {}

  // SAFETY: only after the verifier has passed, which bounds every offset followed here.
  bool Table(const flatbuffers::Table* table, const flatbuffers::TypeTable* type) {
    const uint8_t* vtable = table->GetVTable();
    if (!Spend(flatbuffers::ReadScalar<flatbuffers::voffset_t>(vtable + 2))) return false;
    const uint8_t* previous = nullptr;
    for (size_t i = 0; i < type->num_elems; ++i) {
      const uint8_t* field =
          table->GetAddressOf(flatbuffers::FieldIndexToOffset(static_cast<flatbuffers::voffset_t>(i)));
      if (field != nullptr && !Field(field, previous, type, type->type_codes[i])) return false;
      previous = field;
    }
    return true;
  }

 private:
  bool Spend(uint64_t bytes) {
    if (bytes > budget_) return false;
    budget_ -= bytes;
    return true;
  }

  static const uint8_t* Follow(const uint8_t* field) {
    return field + flatbuffers::ReadScalar<flatbuffers::uoffset_t>(field);
  }

  bool Field(const uint8_t* field, const uint8_t* previous, const flatbuffers::TypeTable* type,
             const flatbuffers::TypeCode& code) {
    const auto kind = static_cast<flatbuffers::ElementaryType>(code.base_type);
    const flatbuffers::TypeTable* ref =
        code.sequence_ref < 0 ? nullptr : type->type_refs[code.sequence_ref]();
    if (code.is_repeating != 0) return Vector(Follow(field), kind, ref);
    return Value(field, previous, kind, ref);
  }

  bool Vector(const uint8_t* vector, flatbuffers::ElementaryType kind, const flatbuffers::TypeTable* ref) {
    const uint64_t count = flatbuffers::ReadScalar<flatbuffers::uoffset_t>(vector);
    const size_t size = flatbuffers::InlineSize(kind, ref);
    if (!Spend(4 + count * size)) return false;
    const bool inner = kind == flatbuffers::ET_STRING ||
                       (kind == flatbuffers::ET_SEQUENCE && ref->st != flatbuffers::ST_STRUCT);
    for (uint64_t i = 0; inner && i < count; ++i) {
      if (!Value(vector + 4 + i * size, nullptr, kind, ref)) return false;
    }
    return true;
  }

  bool Value(const uint8_t* field, const uint8_t* previous, flatbuffers::ElementaryType kind,
             const flatbuffers::TypeTable* ref) {
    if (kind == flatbuffers::ET_STRING) {
      return Spend(5ull + flatbuffers::ReadScalar<flatbuffers::uoffset_t>(Follow(field)));
    }
    if (kind != flatbuffers::ET_SEQUENCE || ref->st == flatbuffers::ST_STRUCT) return true;
    if (ref->st == flatbuffers::ST_UNION) {
      // A member we do not know is not unpacked; ValidateImage refuses it by name.
      if (previous == nullptr || *previous == 0 || *previous >= ref->num_elems) return true;
      ref = ref->type_refs[ref->type_codes[*previous].sequence_ref]();
    }
    return Table(reinterpret_cast<const flatbuffers::Table*>(Follow(field)), ref);
  }

  uint64_t budget_;
};

// FlatBuffers reads scalars in place, so the bytes must lie at a multiple of 8.
class Aligned {
 public:
  explicit Aligned(std::string_view bytes) : bytes_(bytes) {
    if (bytes.empty() || reinterpret_cast<uintptr_t>(bytes.data()) % 8 == 0) return;
    copy_.resize((bytes.size() + 7) / 8);
    std::memcpy(copy_.data(), bytes.data(), bytes.size());
    bytes_ = {reinterpret_cast<const char*>(copy_.data()), bytes.size()};
  }
  const uint8_t* data() const { return reinterpret_cast<const uint8_t*>(bytes_.data()); }
  size_t size() const { return bytes_.size(); }

 private:
  std::string_view bytes_;
  std::vector<uint64_t> copy_;
};

template <typename T>
absl::StatusOr<std::unique_ptr<typename T::NativeTableType>> Unpack(std::string_view bytes,
                                                                    const char* file) {
  const Aligned buffer(bytes);
  flatbuffers::Verifier::Options options;
  options.max_depth = kMaxDepth;
  options.max_tables = kMaxTables;
  flatbuffers::Verifier verifier(buffer.data(), buffer.size(), options);
  if (!verifier.VerifyBuffer<T>(nullptr)) {
    return absl::DataLossError(absl::StrCat(file, ": not a FlatBuffer of its schema"));
  }
  const T* root = flatbuffers::GetRoot<T>(buffer.data());
  UnpackCost cost(buffer.size());
  if (!cost.Table(reinterpret_cast<const flatbuffers::Table*>(root), T::MiniReflectTypeTable())) {
    return absl::DataLossError(absl::StrCat(file, ": a part is used more than once"));
  }
  return std::unique_ptr<typename T::NativeTableType>(root->UnPack());
}

absl::Status CheckHeader(std::string_view file) {
  const auto damaged = [](auto... what) { return absl::DataLossError(absl::StrCat("manifest: ", what...)); };
  if (file.size() < kManifestHeaderSize) return damaged("header is cut off at byte ", file.size());
  if (std::memcmp(file.data(), kMagic, sizeof(kMagic)) != 0) return damaged("bad magic at byte 0");
  const auto version = Load<uint32_t>(file, kVersionAt);
  if (version != kFormatVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("manifest: format version ", version, ", this program reads version ", kFormatVersion,
                     "; use the program that wrote it, or capture again with this one"));
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

std::string EncodeManifestFile(std::string_view payload) {
  std::string file(kManifestHeaderSize, '\0');
  std::memcpy(file.data(), kMagic, sizeof(kMagic));
  Store<uint32_t>(&file, kVersionAt, kFormatVersion);
  Store<uint32_t>(&file, kHeaderLengthAt, kManifestHeaderSize);
  Store<uint64_t>(&file, kPayloadLengthAt, payload.size());
  const Sha256Digest digest = Sha256Of(payload);
  std::memcpy(file.data() + kDigestAt, digest.data(), digest.size());
  return file.append(payload);
}

absl::StatusOr<std::unique_ptr<ManifestT>> ParseManifest(std::string_view file) {
  MOULT_RETURN_IF_ERROR(CheckHeader(file));
  MOULT_ASSIGN_OR_RETURN(auto manifest, Unpack<Manifest>(file.substr(kManifestHeaderSize), kManifestFile));
  MOULT_RETURN_IF_ERROR(ValidateManifest(*manifest));
  return manifest;
}

absl::StatusOr<std::unique_ptr<ProcessImageT>> ParseImage(std::string_view file) {
  if (file.size() > kMaxImageSize) {
    return absl::DataLossError(absl::StrCat("image: ", file.size(), " bytes, over the limit"));
  }
  return Unpack<ProcessImage>(file, kImageFile);
}

std::string SerializeImage(const ProcessImageT& image) { return Serialize<ProcessImage>(image); }
std::string SerializeManifest(const ManifestT& manifest) { return Serialize<Manifest>(manifest); }

}  // namespace moult::image
