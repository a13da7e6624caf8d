// SPDX-License-Identifier: Apache-2.0
//
// What the parsers of this folder share: cutting text into lines and lines into fields, without copies.
#ifndef MOULT_PROC_TEXT_H_
#define MOULT_PROC_TEXT_H_

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace moult::proc {

// The lines of a text, without their '\n'. A last line without '\n' counts.
class Lines {
 public:
  explicit Lines(std::string_view text) : rest_(text) {}

  bool Next(std::string_view* line) {
    if (rest_.empty()) return false;
    const size_t end = rest_.find('\n');
    *line = rest_.substr(0, end);
    rest_.remove_prefix(end == std::string_view::npos ? rest_.size() : end + 1);
    ++number_;
    return true;
  }
  // Of the line that Next gave last; the first is 1.
  int number() const { return number_; }

 private:
  std::string_view rest_;
  int number_ = 0;
};

// Takes a line apart from its front. Each call answers whether it found what it was asked for; numbers that
// do not fit the type count as not found. After a failure the position is of no further use.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : rest_(text) {}

  std::string_view rest() const { return rest_; }
  bool AtEnd() const { return rest_.empty(); }

  // Spaces and tabs. Always true, so that it can stand in a chain of &&.
  bool Blanks() {
    size_t count = 0;
    while (count < rest_.size() && IsBlank(rest_[count])) ++count;
    rest_.remove_prefix(count);
    return true;
  }

  bool Literal(char c) {
    if (rest_.empty() || rest_.front() != c) return false;
    rest_.remove_prefix(1);
    return true;
  }

  bool Literal(std::string_view text) {
    if (rest_.substr(0, text.size()) != text) return false;
    rest_.remove_prefix(text.size());
    return true;
  }

  bool Char(char* c) {
    if (rest_.empty()) return false;
    *c = rest_.front();
    rest_.remove_prefix(1);
    return true;
  }

  // Skips blanks, then takes all up to the next one; at least one character.
  bool Word(std::string_view* word) {
    Blanks();
    size_t size = 0;
    while (size < rest_.size() && !IsBlank(rest_[size])) ++size;
    *word = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return size != 0;
  }

  // Numbers skip blanks first. Only Dec takes a sign, and only for signed types.
  template <typename T>
  bool Dec(T* value) {
    Blanks();
    bool negative = false;
    if constexpr (std::is_signed_v<T>) negative = Literal('-');
    uint64_t magnitude;
    if (!Digits(10, &magnitude)) return false;
    const uint64_t limit = static_cast<uint64_t>(std::numeric_limits<T>::max()) + (negative ? 1 : 0);
    if (magnitude > limit) return false;
    *value = static_cast<T>(negative ? 0 - magnitude : magnitude);
    return true;
  }

  template <typename T>
  bool Hex(T* value) {
    return Blanks() && Unsigned(16, value);
  }

  template <typename T>
  bool Oct(T* value) {
    return Blanks() && Unsigned(8, value);
  }

 private:
  static bool IsBlank(char c) { return c == ' ' || c == '\t'; }

  static unsigned DigitValue(char c) {
    if (c >= '0' && c <= '9') return static_cast<unsigned>(c - '0');
    if (c >= 'a' && c <= 'f') return static_cast<unsigned>(c - 'a' + 10);
    if (c >= 'A' && c <= 'F') return static_cast<unsigned>(c - 'A' + 10);
    return 99;
  }

  bool Digits(unsigned base, uint64_t* value) {
    uint64_t result = 0;
    size_t count = 0;
    for (; count < rest_.size(); ++count) {
      const unsigned digit = DigitValue(rest_[count]);
      if (digit >= base) break;
      if (__builtin_mul_overflow(result, uint64_t{base}, &result)) return false;
      if (__builtin_add_overflow(result, uint64_t{digit}, &result)) return false;
    }
    rest_.remove_prefix(count);
    *value = result;
    return count != 0;
  }

  // Hex and octal fields are bit patterns: "ffffffff" is a fine int.
  template <typename T>
  bool Unsigned(unsigned base, T* value) {
    uint64_t result;
    if (!Digits(base, &result)) return false;
    if (result > std::numeric_limits<std::make_unsigned_t<T>>::max()) return false;
    *value = static_cast<T>(result);
    return true;
  }

  std::string_view rest_;
};

// Abseil built for C++14, as Debian 12 has it, has a string_view of its own.
inline absl::string_view ToAbsl(std::string_view text) { return {text.data(), text.size()}; }

// "Key:<blanks>value" cut in two; false without a ':'.
bool SplitKey(std::string_view line, std::string_view* key, std::string_view* value);

// "\ooo" back to bytes. With `only` not 0, no other byte than that one is unescaped.
std::string UnescapeOctal(std::string_view text, char only = 0);

// "\n" and "\\", which is all that the kernel escapes in the comm of status.
std::string UnescapeComm(std::string_view text);

// The error for text that a kernel should not have written: kInternal, names file, line and content.
absl::Status Malformed(std::string_view file, int line_number, std::string_view line);
// The error for text that ended too early or lacks something.
absl::Status Incomplete(std::string_view file, std::string_view what);

}  // namespace moult::proc

#endif  // MOULT_PROC_TEXT_H_
