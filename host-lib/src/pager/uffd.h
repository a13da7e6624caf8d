// SPDX-License-Identifier: Apache-2.0
//
// userfaultfd(2), with its quirks dealt with here. Missing, write-protect and minor faults, in kernel mode as well:
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
    bool minor = false;    // the file has the page, the mapping has not
  };

  // `shared`, `anonymous`: the kinds of memory that are to be registered. kUnimplemented: the kernel lacks
  // it; kFailedPrecondition: this process may not.
  static absl::StatusOr<Uffd> Open(bool shared, bool anonymous);
  // For mappings of a tmpfs file whose pages come one by one: RegisterFile, RegisterFiller, Continue. Linux 5.14.
  static absl::StatusOr<Uffd> OpenForFiles();

  // Does not block.
  int fd() const { return fd_.get(); }
  bool can_poison() const { return can_poison_; }

  // kResourceExhausted: too many mappings. kFailedPrecondition: another userfaultfd has it.
  absl::Status Register(absl::Span<std::byte> range) const;
  // A mapping, private or shared, of a tmpfs file: a page that the file has not is a fault, and one that it has is a
  // minor one.
  absl::Status RegisterFile(absl::Span<std::byte> range) const;
  // A shared one that nobody touches: Copy to it puts pages into the file, whole or not at all, and leaves those that
  // are there.
  absl::Status RegisterFiller(absl::Span<std::byte> range) const;
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
  // Maps those pages of `range` that the file has; bytes that were not mapped before. A private mapping gets them
  // read-only: a write makes a copy.
  uint64_t Continue(absl::Span<std::byte> range) const;
  void Wake(absl::Span<std::byte> range) const;

  // Up to `most` faults that wait; none is no error.
  std::vector<Fault> Read(size_t most) const;

 private:
  Uffd(UniqueFd fd, bool can_poison) : fd_(std::move(fd)), can_poison_(can_poison) {}
  template <typename Request>
  absl::Status InSteps(absl::Span<std::byte> range, const char* what, Request request) const;
  absl::Status SetProtection(absl::Span<std::byte> range, uint64_t mode) const;
  absl::Status RegisterAs(absl::Span<std::byte> range, uint64_t mode) const;
  static absl::StatusOr<Uffd> OpenWith(uint64_t wanted, const char* since);

  UniqueFd fd_;
  bool can_poison_;
};

}  // namespace moult::host

#endif  // MOULT_HOST_PAGER_UFFD_H_
