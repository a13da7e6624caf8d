// SPDX-License-Identifier: Apache-2.0
//
// Where pages of guest RAM are kept while they are out: numbered slots of a page each. Each kind of pool has
// a folder beside this file; OpenPagePool (uri.h) opens them.
#ifndef MOULT_HOST_POOL_PAGE_POOL_H_
#define MOULT_HOST_POOL_PAGE_POOL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "pager/page_buffer.h"

namespace moult::host {

enum class PoolSlot : uint64_t {};

// Safe for several threads. Read and Write may block; what bounds that is the kind's to say. A slot is used
// by one caller at a time: it is not freed while it is read.
class PagePool {
 public:
  virtual ~PagePool() = default;

  // Stores slots.size() pages and says where: neighbours in neighbouring slots as far as there is room for
  // it. All or nothing; kResourceExhausted: the limit, or the medium, is full.
  virtual absl::Status Write(absl::Span<const std::byte> pages, absl::Span<PoolSlot> slots) = 0;

  // As Write of the first `count` pages, which are the pool's alone until Await has returned OK; where it fails, for good.
  // Await must be called, once. The pool outlives it.
  class Writing {
   public:
    virtual ~Writing() = default;
    virtual absl::Status Await(absl::Span<PoolSlot> slots) = 0;
  };
  virtual std::unique_ptr<Writing> BeginWrite(std::shared_ptr<PageBuffer> pages, size_t count);

  // Slots in any order; those that follow each other are read at once. Every page is what was written, or the
  // call fails: kDataLoss where the content has changed. What `pages` holds then is nothing to use.
  virtual absl::Status Read(absl::Span<const PoolSlot> slots, absl::Span<std::byte> pages) = 0;

  virtual void Free(absl::Span<const PoolSlot> slots) = 0;

  // As Read and Free, for what can be done without waiting for a medium. False: it cannot, and nothing was done.
  virtual bool ReadNow(absl::Span<const PoolSlot>, absl::Span<std::byte>) { return false; }
  virtual bool FreeNow(absl::Span<const PoolSlot>) { return false; }

  virtual uint64_t used_bytes() const = 0;
  virtual uint64_t limit_bytes() const = 0;
  // For messages: "file:/var/lib/moult".
  virtual const std::string& name() const = 0;
  // Threads that serve the pager do what may block here, and never the last of them: there must be two (bounded_pool.h).
  virtual bool lends() const { return false; }
};

}  // namespace moult::host

#endif  // MOULT_HOST_POOL_PAGE_POOL_H_
