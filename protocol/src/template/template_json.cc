// SPDX-License-Identifier: Apache-2.0
#include "moult/protocol/template_json.h"

#include <string_view>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "flatbuffers/minireflect.h"

namespace moult::image {
namespace {

// The length of the UTF-8 character at the start of `text`, 0 when there is none (RFC 3629: no overlong
// forms, no surrogates, nothing above U+10FFFF).
size_t Utf8Length(std::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<uint8_t>(text[i]) : 0u; };
  const auto tail = [&](size_t i) { return (byte(i) & 0xc0u) == 0x80u; };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xc2 && first <= 0xdf) return tail(1) ? 2 : 0;
  if (first >= 0xe0 && first <= 0xef) {
    const unsigned low = first == 0xe0 ? 0xa0 : 0x80;
    const unsigned high = first == 0xed ? 0x9f : 0xbf;
    return byte(1) >= low && byte(1) <= high && tail(2) ? 3 : 0;
  }
  if (first >= 0xf0 && first <= 0xf4) {
    const unsigned low = first == 0xf0 ? 0x90 : 0x80;
    const unsigned high = first == 0xf4 ? 0x8f : 0xbf;
    return byte(1) >= low && byte(1) <= high && tail(2) && tail(3) ? 4 : 0;
  }
  return 0;
}

void AppendQuoted(std::string_view text, std::string* out) {
  out->push_back('"');
  while (!text.empty()) {
    const size_t length = Utf8Length(text);
    const char c = text[0];
    if (length == 0) {
      out->append("\\ufffd");
    } else if (c == '"' || c == '\\') {
      out->append({'\\', c});
    } else if (length == 1 && (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)) {
      absl::StrAppendFormat(out, "\\u%04x", static_cast<unsigned>(c));
    } else {
      out->append(text.substr(0, length));
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
  out->push_back('"');
}

// FlatBuffers' own ToStringVisitor is nearly JSON: it escapes strings as C does, leaves enums bare and prints
// "(?)" for what it does not know.
class JsonVisitor : public flatbuffers::IterationVisitor {
 public:
  explicit JsonVisitor(int indent) : indent_(indent) {}
  std::string Take() { return std::move(out_); }

  void StartSequence() override { Open('{'); }
  void EndSequence() override { Close('}'); }
  void StartVector() override {
    if (bytes_ == nullptr) return Open('[');
    const auto* vector = reinterpret_cast<const flatbuffers::Vector<uint8_t>*>(
        bytes_ + flatbuffers::ReadScalar<flatbuffers::uoffset_t>(bytes_));
    const absl::string_view raw(reinterpret_cast<const char*>(vector->Data()), vector->size());
    absl::StrAppend(&out_, "\"", absl::Base64Escape(raw), "\"");
  }
  void EndVector() override {
    if (bytes_ == nullptr) return Close(']');
    bytes_ = nullptr;
  }
  void Field(size_t, size_t, flatbuffers::ElementaryType type, bool is_vector,
             const flatbuffers::TypeTable* ref, const char* name, const uint8_t* value) override {
    if (value == nullptr) return;
    Separate();
    AppendQuoted(name != nullptr ? name : "?", &out_);
    out_.append(indent_ > 0 ? ": " : ":");
    bytes_ = is_vector && type == flatbuffers::ET_UCHAR && ref == nullptr ? value : nullptr;
  }
  void Element(size_t, flatbuffers::ElementaryType, const flatbuffers::TypeTable*, const uint8_t*) override {
    if (bytes_ == nullptr) Separate();
  }
  void UType(uint8_t x, const char* name) override { Named(x, name); }
  void Bool(bool x) override { out_.append(x ? "true" : "false"); }
  void Char(int8_t x, const char* name) override { Named(x, name); }
  void UChar(uint8_t x, const char* name) override {
    if (bytes_ == nullptr) Named(x, name);
  }
  void Short(int16_t x, const char* name) override { Named(x, name); }
  void UShort(uint16_t x, const char* name) override { Named(x, name); }
  void Int(int32_t x, const char* name) override { Named(x, name); }
  void UInt(uint32_t x, const char* name) override { Named(x, name); }
  void Long(int64_t x) override { absl::StrAppend(&out_, x); }
  void ULong(uint64_t x) override { absl::StrAppend(&out_, x); }
  // The schema has no floating point; JSON has no NaN.
  void Float(float) override { out_.append("null"); }
  void Double(double) override { out_.append("null"); }
  void String(const flatbuffers::String* text) override {
    AppendQuoted({text->c_str(), text->size()}, &out_);
  }
  void Unknown(const uint8_t*) override { out_.append("null"); }

 private:
  void NewLine() {
    if (indent_ == 0) return;
    out_.push_back('\n');
    out_.append(static_cast<size_t>(indent_ * level_), ' ');
  }
  void Open(char bracket) {
    out_.push_back(bracket);
    ++level_;
    first_ = true;
  }
  void Close(char bracket) {
    --level_;
    if (!first_) NewLine();
    out_.push_back(bracket);
    first_ = false;
  }
  void Separate() {
    if (!first_) out_.push_back(',');
    first_ = false;
    NewLine();
  }
  template <typename T>
  void Named(T x, const char* name) {
    if (name != nullptr) return AppendQuoted(name, &out_);
    absl::StrAppend(&out_, static_cast<int64_t>(x));
  }

  const int indent_;
  int level_ = 0;
  bool first_ = true;               // nothing in the innermost bracket yet
  const uint8_t* bytes_ = nullptr;  // the byte vector that is being passed over, already written
  std::string out_;
};

template <typename T>
std::string ToJson(const T& root, int indent) {
  JsonVisitor visitor(indent);
  flatbuffers::IterateObject(reinterpret_cast<const uint8_t*>(&root), T::MiniReflectTypeTable(), &visitor);
  return visitor.Take();
}

template <typename T, typename Native>
std::string PackToJson(const Native& object, int indent) {
  flatbuffers::FlatBufferBuilder builder(64 * 1024);
  builder.Finish(T::Pack(builder, &object));
  return ToJson(*flatbuffers::GetRoot<T>(builder.GetBufferPointer()), indent);
}

}  // namespace

std::string ImageToJson(const ProcessImage& image, int indent) { return ToJson(image, indent); }
std::string ImageToJson(const ProcessImageT& image, int indent) {
  return PackToJson<ProcessImage>(image, indent);
}
std::string ManifestToJson(const Manifest& manifest, int indent) { return ToJson(manifest, indent); }
std::string ManifestToJson(const ManifestT& manifest, int indent) {
  return PackToJson<Manifest>(manifest, indent);
}

}  // namespace moult::image
