// SPDX-License-Identifier: Apache-2.0
//
// FlatBuffers from elsewhere into objects: structure verified, no amplification.
#ifndef MOULT_PROTOCOL_UNPACK_H_
#define MOULT_PROTOCOL_UNPACK_H_

#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "flatbuffers/minireflect.h"

namespace moult {

inline constexpr uint32_t kMaxUnpackDepth = 16;  // nesting of tables and vectors

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
      // A member we do not know is not unpacked; validation refuses it by name.
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
absl::StatusOr<std::unique_ptr<typename T::NativeTableType>> UnpackBuffer(std::string_view bytes,
                                                                          const char* what,
                                                                          uint32_t max_tables) {
  const Aligned buffer(bytes);
  flatbuffers::Verifier::Options options;
  options.max_depth = kMaxUnpackDepth;
  options.max_tables = max_tables;
  flatbuffers::Verifier verifier(buffer.data(), buffer.size(), options);
  if (!verifier.VerifyBuffer<T>(nullptr)) {
    return absl::DataLossError(absl::StrCat(what, ": not a FlatBuffer of its schema"));
  }
  const T* root = flatbuffers::GetRoot<T>(buffer.data());
  UnpackCost cost(buffer.size());
  if (!cost.Table(reinterpret_cast<const flatbuffers::Table*>(root), T::MiniReflectTypeTable())) {
    return absl::DataLossError(absl::StrCat(what, ": a part is used more than once"));
  }
  return std::unique_ptr<typename T::NativeTableType>(root->UnPack());
}

}  // namespace moult

#endif  // MOULT_PROTOCOL_UNPACK_H_
