// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_PTRACE_REMOTE_PTR_H_
#define MOULT_PTRACE_REMOTE_PTR_H_

#include <compare>
#include <cstdint>

namespace moult::ptrace {

// An address in another process. It never converts to a pointer of ours.
class RemotePtr {
 public:
  constexpr RemotePtr() = default;
  constexpr explicit RemotePtr(uint64_t value) : value_(value) {}
  constexpr uint64_t value() const { return value_; }
  constexpr bool is_null() const { return value_ == 0; }
  constexpr RemotePtr operator+(uint64_t offset) const { return RemotePtr(value_ + offset); }
  constexpr auto operator<=>(const RemotePtr&) const = default;

 private:
  uint64_t value_ = 0;
};

}  // namespace moult::ptrace

#endif  // MOULT_PTRACE_REMOTE_PTR_H_
