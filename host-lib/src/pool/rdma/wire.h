// SPDX-License-Identifier: Apache-2.0
//
// How fields lie in a message. Writer and Reader are called alike, so that a message's fields are listed once.
#ifndef MOULT_HOST_POOL_RDMA_WIRE_H_
#define MOULT_HOST_POOL_RDMA_WIRE_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace moult::host::rdma {

class Writer {
 public:
  template <typename T>
  requires std::is_unsigned_v<T>
  void operator()(const T& value) {
    for (size_t i = 0; i < sizeof(T); ++i) bytes_.push_back(static_cast<char>(value >> (8 * i)));
  }
  template <size_t kSize>
  void operator()(const std::array<uint8_t, kSize>& value) {
    bytes_.append(value.begin(), value.end());
  }
  void Text(const std::string& value, size_t limit) {
    const size_t size = std::min(value.size(), limit);
    (*this)(static_cast<uint16_t>(size));
    bytes_.append(value, 0, size);
  }
  void Flag(bool value) { (*this)(static_cast<uint8_t>(value)); }
  void Code(absl::StatusCode value) { (*this)(static_cast<uint8_t>(value)); }
  template <typename T, typename Item>
  void Each(const std::vector<T>& items, size_t limit, Item item) {
    const size_t count = std::min(items.size(), limit);
    (*this)(static_cast<uint16_t>(count));
    for (size_t i = 0; i < count; ++i) item(*this, items[i]);
  }
  std::string Take() { return std::move(bytes_); }
  size_t size() const { return bytes_.size(); }

 private:
  std::string bytes_;
};

// After the first error nothing more is read, and what was given stays as it was.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}
  template <typename T>
  requires std::is_unsigned_v<T>
  void operator()(T& value) {
    const std::string_view bytes = Take(sizeof(T));
    for (size_t i = 0; i < bytes.size(); ++i) {
      value = static_cast<T>(value | static_cast<T>(static_cast<T>(static_cast<uint8_t>(bytes[i])) << (8 * i)));
    }
  }
  template <size_t kSize>
  void operator()(std::array<uint8_t, kSize>& value) {
    const std::string_view bytes = Take(kSize);
    std::copy(bytes.begin(), bytes.end(), value.begin());
  }
  void Text(std::string& value, size_t limit) {
    uint16_t size = 0;
    (*this)(size);
    if (size > limit) return Fail("a text is too long");
    value = Take(size);
    const auto printable = [](char c) { return c >= ' ' && c <= '~'; };
    if (!std::all_of(value.begin(), value.end(), printable)) Fail("a text has bytes that are not printable");
  }
  void Flag(bool& value) {
    uint8_t byte = 0;
    (*this)(byte);
    if (byte > 1) Fail("a flag is neither 0 nor 1");
    value = byte == 1;
  }
  void Code(absl::StatusCode& value) {
    uint8_t byte = 0;
    (*this)(byte);
    if (byte == 0 || byte > static_cast<uint8_t>(absl::StatusCode::kUnauthenticated)) Fail("an error's code is unknown");
    value = static_cast<absl::StatusCode>(byte);
  }
  template <typename T, typename Item>
  void Each(std::vector<T>& items, size_t limit, Item item) {
    uint16_t count = 0;
    (*this)(count);
    if (count > limit) return Fail("has too many entries");
    for (uint16_t i = 0; i < count && error_ == nullptr; ++i) item(*this, items.emplace_back());
  }
  void Fail(const char* why) {
    if (error_ == nullptr) error_ = why;
  }
  absl::Status End() {
    if (error_ == nullptr && !rest_.empty()) Fail("is longer than its fields");
    return error_ == nullptr ? absl::OkStatus() : absl::InvalidArgumentError(absl::StrCat("message: ", error_));
  }

 private:
  std::string_view Take(size_t size) {
    if (size > rest_.size()) Fail("is shorter than its fields");
    if (error_ != nullptr) return {};
    const std::string_view taken = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return taken;
  }
  std::string_view rest_;
  const char* error_ = nullptr;
};

}  // namespace moult::host::rdma

#endif  // MOULT_HOST_POOL_RDMA_WIRE_H_
