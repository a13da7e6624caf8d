// SPDX-License-Identifier: Apache-2.0
//
// Builds a syscall program together with the data it points at, for a region whose address in the target is
// known only when the program is written there.
#ifndef MOULT_PTRACE_PROGRAM_BUILDER_H_
#define MOULT_PTRACE_PROGRAM_BUILDER_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "parasite/program.h"
#include "ptrace/remote_ptr.h"

namespace moult::ptrace {

// An argument of a system call in a program.
struct Arg {
  enum class Kind : uint8_t { kValue, kData, kResult };
  Kind kind = Kind::kValue;
  uint64_t value = 0;

  constexpr Arg() = default;
  template <typename T>
    requires std::is_integral_v<T> || std::is_enum_v<T>
  // NOLINTNEXTLINE(google-explicit-constructor): numbers and pointers are what system calls take
  constexpr Arg(T v) : value(static_cast<uint64_t>(v)) {}
  // NOLINTNEXTLINE(google-explicit-constructor)
  constexpr Arg(RemotePtr p) : value(p.value()) {}
  static constexpr Arg Data(size_t offset) { return Make(Kind::kData, offset); }
  static constexpr Arg Result(size_t op) { return Make(Kind::kResult, op); }

 private:
  static constexpr Arg Make(Kind kind, uint64_t value) {
    Arg arg;
    arg.kind = kind;
    arg.value = value;
    return arg;
  }
};

// What a call is for, as errors name it: "mmap 0x1000-0x2000". Nearly none is ever asked for, so that the range is put into
// words only then.
class CallName {
 public:
  // NOLINTNEXTLINE(google-explicit-constructor)
  CallName(std::string text) : text_(std::move(text)) {}
  // NOLINTNEXTLINE(google-explicit-constructor)
  CallName(const char* text) : text_(text) {}
  CallName(std::string text, uint64_t start, uint64_t end) : text_(std::move(text)), start_(start), end_(end) {}
  std::string ToString() const;

 private:
  std::string text_;
  uint64_t start_ = 0;
  uint64_t end_ = 0;  // 0: no range
};

class ProgramBuilder {
 public:
  // Appends data that the program points at; returns its offset for Arg::Data. 16-byte aligned.
  size_t AddData(std::span<const std::byte> bytes);
  template <typename T>
    requires std::is_trivially_copyable_v<T>
  size_t AddObject(const T& object) {
    return AddData(std::as_bytes(std::span(&object, 1)));
  }
  template <typename T>
  size_t AddVector(const std::vector<T>& items) {
    return AddData(std::as_bytes(std::span(items)));
  }
  size_t AddString(const std::string& text) {
    return AddData(std::as_bytes(std::span(text.c_str(), text.size() + 1)));
  }
  // Room that the program's calls write to.
  size_t AddBuffer(size_t size);
  // Turns the 8 bytes at data offset `where` into the final address of data offset `to` (pointers in structs).
  void AddPointer(size_t where, size_t to) { pointers_.push_back({where, to}); }

  // Appends one call; `what` names it in errors.
  size_t Call(CallName what, long nr, std::initializer_list<Arg> args) { return Add(std::move(what), nr, args, 0, 0); }
  size_t CallMayFail(CallName what, long nr, std::initializer_list<Arg> args) {
    return Add(std::move(what), nr, args, kOpMayFail, 0);
  }
  size_t CallExpect(CallName what, long nr, std::initializer_list<Arg> args, int64_t expect) {
    return Add(std::move(what), nr, args, kOpExpect, expect);
  }

  void set_ready_word(uint64_t address) { ready_ = address; }
  void set_park_word(uint64_t address) { park_ = address; }

  size_t op_count() const { return ops_.size(); }
  bool empty() const { return ops_.empty(); }
  std::string what(size_t op) const { return what_[op].ToString(); }
  // Bytes that Build needs.
  size_t Size() const;
  size_t DataOffset() const;  // of data offset 0, from the program's start
  // The bytes for a program that will lie at `address`.
  std::vector<std::byte> Build(RemotePtr address) const;

 private:
  struct Pointer {
    size_t where;
    size_t to;
  };
  size_t Add(CallName what, long nr, std::initializer_list<Arg> args, unsigned flags, int64_t expect);

  std::vector<MoultOp> ops_;
  std::vector<uint8_t> data_args_;  // per op: bit i: arg[i] is a data offset
  std::vector<CallName> what_;
  std::vector<std::byte> data_;
  std::vector<Pointer> pointers_;
  uint64_t ready_ = 0;
  uint64_t park_ = 0;
};

// What came back from a program.
class ProgramResult {
 public:
  ProgramResult(const ProgramBuilder& program, std::vector<std::byte> bytes);

  // 1 + index of the op that failed, 0: none.
  size_t failed() const { return failed_; }
  // -1 while the op was not reached.
  int64_t result(size_t op) const { return results_[op]; }
  template <typename T>
  T Data(size_t offset) const {
    T object;
    std::memcpy(&object, bytes_.data() + data_ + offset, sizeof(object));
    return object;
  }

 private:
  std::vector<std::byte> bytes_;
  std::vector<int64_t> results_;
  size_t data_;
  size_t failed_;
};

}  // namespace moult::ptrace

#endif  // MOULT_PTRACE_PROGRAM_BUILDER_H_
