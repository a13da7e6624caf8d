// SPDX-License-Identifier: Apache-2.0
//
// userfaultfd(2), with its quirks dealt with here. Missing and write-protect faults, in kernel mode as well:
// a VMM reads and writes guest memory by system calls, and KVM on its behalf.
#ifndef MOULT_HOST_PAGER_UFFD_H_
#define MOULT_HOST_PAGER_UFFD_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "moult/base/unique_fd.h"

namespace moult::host {

// Safe for several threads. Ranges are whole pages of memory of this process.
class Uffd {
 public:
  struct Fault {
    std::byte* page;
    bool write_protected;  // the page is there and must not be written; else there is none
  };

  // `shared`, `anonymous`: the kinds of memory that are to be registered. kUnimplemented: the kernel lacks
  // it; kFailedPrecondition: this process may not.
  static absl::StatusOr<Uffd> Open(bool shared, bool anonymous);

  // Does not block.
  int fd() const { return fd_.get(); }
  bool can_poison() const { return can_poison_; }

  // kResourceExhausted: too many mappings. kFailedPrecondition: another userfaultfd has it.
  absl::Status Register(absl::Span<std::byte> range) const;
  // Wakes who waits, and lifts write protection. The kernel does so even where the call fails half way.
  absl::Status Unregister(absl::Span<std::byte> range) const;

  // Every write to a page of `range` that is there faults from now on: no processor has an older translation
  // when this returns.
  absl::Status Protect(absl::Span<std::byte> range) const;
  absl::Status Unprotect(absl::Span<std::byte> range) const;  // and wakes
  // These three put pages where there are none, whole or not at all, and wake who waits for them. A page that
  // is there stays as it is, which is no error. kNotFound, as of Protect and Unprotect: a part is not
  // registered.
  absl::Status Copy(absl::Span<std::byte> range, const std::byte* from) const;
  absl::Status Zero(absl::Span<std::byte> range) const;
  absl::Status Poison(
      absl::Span<std::byte> range) const;  // an access is SIGBUS, or a machine check for a guest
  void Wake(absl::Span<std::byte> range) const;

  // Up to `most` faults that wait; none is no error.
  std::vector<Fault> Read(size_t most) const;

 private:
  Uffd(UniqueFd fd, bool can_poison) : fd_(std::move(fd)), can_poison_(can_poison) {}
  template <typename Request>
  absl::Status InSteps(absl::Span<std::byte> range, const char* what, Request request) const;
  absl::Status SetProtection(absl::Span<std::byte> range, uint64_t mode) const;

  UniqueFd fd_;
  bool can_poison_;
};

}  // namespace moult::host

#endif  // MOULT_HOST_PAGER_UFFD_H_
