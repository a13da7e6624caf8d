// SPDX-License-Identifier: Apache-2.0
//
// Moves pages of guest RAM into a pool, and brings them back when they are touched (userfaultfd).
//
// Why no write is lost and no stale byte is read, whoever writes (a vCPU, the VMM's own system calls, the
// guest's kernel): an Offload of page P goes through
//
//   1. register P's chunk, record P as kCopying; a hole of private memory is filled with zeros
//   2. write-protect P; when this returns, no CPU can write P any more without a fault
//   3. copy P to the pool
//   4. under the lock: kCopying -> kLeaving: nobody else may touch P's mapping
//   5. discard P; under the lock: kLeaving -> kOut; wake who was noted
// A write before 2 is in what 3 copies. A write after 2 faults: in state kCopying its server takes the record
// away and lifts the protection, in this order, so 4 does not see P and P stays, with the write; in kLeaving
// it waits for 5 and is made again, and then, like any access after 5, it finds no page and gets what 3
// copied, which is what P was at 5, since nobody wrote between 2 and 5. If P vanishes after 1 (a balloon),
// the next access is a missing fault, whose server takes the record away too: protection does not stick to a
// hole of private memory, so P must not come back unseen. A page is put back by UFFDIO_COPY, whole or not at
// all, and never over a page that is there. No decision outlives the lock without a claim: who is about to
// change P's mapping (zeros into a hole, protection lifted) holds P's entry in a busy state, so an Offload
// that begins meanwhile leaves P alone, and a late zero cannot come after a discard.
//
// Out of reach: what writes without this process's page tables. A device, or an O_DIRECT read in flight, that
// has pinned P before 2; another process that maps the same memfd (a vhost-user back end): it takes no
// faults, and what it touches meanwhile reads as zero. Such pages must not be offloaded.
#ifndef MOULT_HOST_PAGER_PAGER_H_
#define MOULT_HOST_PAGER_PAGER_H_

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <stop_token>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "memory/guest_memory.h"
#include "moult/base/unique_fd.h"
#include "pager/owner.h"
#include "pager/page_buffer.h"
#include "pager/page_table.h"
#include "pager/stats.h"
#include "pager/uffd.h"
#include "pool/page_pool.h"
#include "serving/serving_threads.h"

namespace moult::host {

struct PagerConfig {
  std::shared_ptr<PagePool> pool;
  std::shared_ptr<ServingThreads> threads;  // those in Serve, which the pool may have to do with; null: of its own
  // From the first failed read of a page until it is lost; tries are 10 ms apart, then twice as long, at most
  // 1 s. What bounds one try is the pool's to say (bounded_pool.h).
  std::chrono::milliseconds read_deadline{10'000};
  // The same for all pages of a function that has ended (End): then they are zeros.
  std::chrono::milliseconds ended_deadline{1000};
  // Pages that are fetched with one that is touched: those beside it in virtual addresses.
  uint32_t neighbours = 7;
  // Faults of the first so many ms after a recall are the function's working set.
  std::chrono::milliseconds working_set_window{1000};
  // Separate pieces of guest RAM that may be registered at a time: each costs up to two mappings of the
  // process.
  uint32_t most_ranges = 16384;
  // Page `gpa` of `owner`, which was touched, is lost: who touched it waits until Resolve. Once for an owner
  // until then, on a thread of Serve, without a lock: must not block.
  std::function<void(uint64_t owner, GuestPhys gpa, const absl::Status& why)> lost;
  // In the same way, of an owner that has ended (End): the page, whoever touched it, is zeros, as the pool did not give it.
  std::function<void(uint64_t owner, GuestPhys gpa, const absl::Status& why)> zeroed;
};

// Pages of one function that follow each other in guest RAM and in its virtual addresses.
struct OffloadRun {
  GuestRange range;
  uint64_t va;
  uint32_t pid;
};

enum class Prefetch { kNone, kWorkingSet, kAll };
enum class Resolution {
  kZero,    // zeros instead, and at once for what cannot be read from now on: its function has been killed
  kPoison,  // a machine check for who touches it; Linux 6.6
  kRetry,   // the pool is well again
};

// Safe for several threads. All but Serve, Drop, Resolve and stats may block on the pool, and belong on a worker
// thread; faults are served by the threads in Serve, which must be there from the first Offload on until
// RecallAll.
class Pager {
 public:
  // `memory` outlives this. userfaultfd is not touched before the first Offload.
  static absl::StatusOr<std::unique_ptr<Pager>> Create(const GuestMemory* memory, PagerConfig config);
  // After Stop and the end of every call. What is still out is gone: touched, it reads as zero. So RecallAll
  // is called before, unless the guest has ended.
  ~Pager();

  // Moves pages of `owner` out; `runs` in the order of virtual addresses. On an error nothing was done, or
  // all that was is undone (what cannot be read back comes when touched; the error says so). kOutOfRange,
  // kInvalidArgument: a run that is not in guest RAM; kFailedPrecondition, kUnimplemented: no userfaultfd;
  // kResourceExhausted: the pool is full.
  absl::StatusOr<OffloadResult> Offload(uint64_t owner, absl::Span<const OffloadRun> runs);

  // Serves faults until Stop; as many threads of the embedder as it likes. Takes no lock of the embedder. For a loop that
  // serves others as well: ServeReady when fd() is readable; false: it was stopped. What a thread that ends by itself
  // (pthread_exit, killed by a filter of system calls) was in the midst of is taken up by another within ServingThreads::kLook, or by
  // the next that comes: the access is made again. What it read from the pool for has failed once then, so a page that
  // ends each thread that fetches it is lost at the deadline, as any other.
  void Serve();
  int fd() const { return epoll_.get(); }
  class Serving;
  bool ServeReady(Serving* serving);
  void Stop();

  // The owner runs again: fetches what `prefetch` says, and starts to record its working set: pages that
  // faults brought in (with neighbours) until the window after the end of this call is over, or the next
  // Offload. A recall that prefetches adds to the set, kNone begins a new one. kCancelled: by `cancel`, and
  // kDeadlineExceeded: the pool did not give a page; what is still out then comes when touched. kDataLoss:
  // all but lost pages are back.
  absl::Status Recall(uint64_t owner, Prefetch prefetch, std::stop_token cancel = {});
  absl::Status RecallAll(std::stop_token cancel = {});

  // For an owner that nobody runs again: fetches some of what is out, until then, or longer by what one read of the pool may
  // take. True: nothing was out any more. Errors: kUnavailable: try it again; kDataLoss: what is left is lost pages.
  absl::StatusOr<bool> RecallSome(uint64_t owner, std::chrono::steady_clock::time_point until);

  // After it the range can be read without a fault, in the library as well: needs no thread in Serve. Holes
  // are filled with zeros. Not for pages that are being offloaded. Errors as Recall; kOutOfRange.
  absl::Status Populate(GuestRange range);

  // Nobody wants the contents any more. What is out then reads as zero; what is not stays as it is (that is
  // GuestMemory::Discard's). Which pages are left, as another call has them, which may wait for the pool.
  absl::StatusOr<std::vector<GuestPhys>> Drop(GuestRange range);
  // The same for what of an owner `unwanted` says, page by page: what is on its way stays.
  void DropUnwanted(uint64_t owner, const std::function<bool(GuestPhys)>& unwanted);
  // The same for all of an owner, which is forgotten. False: other calls had some of it, and the owner is still known.
  bool DropOwner(uint64_t owner);

  // The owner's function has ended, or stands still until it does: its page frames are, or will be, anybody's, who must not
  // wait for a pool that gives nothing. So nothing of it is lost any more: what could not be read for `ended_deadline`, and
  // what is lost already, is zeros, and so is, until a read goes well again, what is touched next. Others may have some
  // of it (a memory file, a pipe), so what the pool gives still comes.
  void End(uint64_t owner);
  // It has not ended after all. False: zeros were given already, so it must not run.
  bool Revive(uint64_t owner);

  // Of all lost pages of an owner. kNotFound: it has none. kUnimplemented: kPoison.
  absl::Status Resolve(uint64_t owner, Resolution resolution);

  // For each page of `range`, whether it is out. Empty: no pages of one region of guest RAM.
  std::vector<bool> Out(GuestRange range);
  PagerStats stats() const;
  PagerCounts owner_stats(uint64_t owner) const;  // all 0: unknown

 private:
  using Clock = std::chrono::steady_clock;
  class OffloadCall;

  // Since when a page cannot be brought in.
  struct Failure {
    Clock::time_point first, last, next;
    std::chrono::milliseconds pause;
  };

  enum class Loss { kLost, kZeroed };
  struct Told {
    uint64_t owner;
    GuestPhys gpa;
    absl::Status why;
    Loss kind;
  };

  // What a thread in Serve is in the midst of.
  struct Busy {
    std::vector<Uffd::Fault> faults;  // that it has read
    std::vector<Record*> claimed;
    Record* touched = nullptr;  // of these
    std::optional<PageId> hole;
    std::vector<PageId> wake;  // perhaps not yet
    bool idle() const { return faults.empty() && claimed.empty() && !hole.has_value() && wake.empty(); }
  };

  Pager(const GuestMemory* memory, PagerConfig config);
  void Count(uint64_t owner, uint64_t PagerCounts::*what, int64_t change);

  // registration.cc: which chunks are registered. Use: are, until Unuse at least. Retire: are not, if no page
  // of them is out.
  absl::Status OpenUffd();
  absl::Status Use(absl::Span<const uint64_t> chunks);
  void Unuse(absl::Span<const uint64_t> chunks);
  void Retire(absl::Span<const uint64_t> chunks);
  void RetireChunk(uint64_t chunk);
  absl::Status RegisterChunk(uint64_t chunk);
  bool Registered(uint64_t chunk);
  int64_t RangesMore(uint64_t chunk);

  // serve.cc
  void ServeFaults(Serving* serving);
  void ServeFault(const Uffd::Fault& fault, Serving* serving);
  void ClaimWithNeighbours(Record* touched, std::vector<Record*>* claimed);
  void ServeHole(PageId page, bool write_protected, Busy* busy);
  void Fail(Record* record, const absl::Status& why);
  Told LossOf(const Record& record, const absl::Status& why, Loss kind) const;
  void TellLost();
  void OnTimer(Busy* mine);
  void ArmTimer();

  // takeover.cc: what threads have left undone
  void Watch(Clock::time_point at);
  void TakeOver(Busy* mine);
  void EndWork(Busy* busy, const absl::Status& why);

  // fill.cc: the way in of records that the caller has claimed (kComing). `touched`: the one that somebody
  // waits for, or null. What could not be brought in is kOut again, but for `touched`, which Fail has.
  // `busy`: what the thread has to do with them, if it serves a fault.
  absl::Status Bring(absl::Span<Record* const> records, Record* touched, PageBuffer* buffer, Busy* busy = nullptr);
  void Settle(absl::Span<Record* const> records, Record* touched, const std::vector<bool>& done, const absl::Status& why,
              Busy* busy);
  absl::Status Fill(absl::Span<Record* const> records, Record* touched, PageBuffer* buffer,
                    std::vector<bool>* done);
  absl::Status CopyIn(absl::Span<Record* const> records, absl::Span<const size_t> stored,
                      const Record* touched, PageBuffer* buffer, std::vector<bool>* done);
  absl::Status FillHoles(PageId first, uint64_t count);
  void EndHoles(absl::Span<const PageId> pages, Busy* busy = nullptr);
  // The table names it no more; the record may be freed. The caller wakes who waits for the page, frees the
  // slots, retires the chunks.
  void Forget(Record* record, std::vector<PoolSlot>* slots, std::vector<uint64_t>* chunks);
  void Unref(Batch* batch);

  // recall.cc
  struct Absent {
    std::vector<std::pair<VirtualPage, PageId>> pages;  // that can be fetched, in the order of Offload
    bool busy = false;                                  // another call has some
    bool lost = false;
  };
  Absent AbsentOf(uint64_t owner);
  absl::Status RecallRest(uint64_t owner, const std::stop_token& cancel);
  absl::Status BringAll(uint64_t owner, absl::Span<const PageId> pages, bool drop_zeros,
                        const std::stop_token& cancel);
  std::vector<Record*> ClaimAbsent(uint64_t owner, absl::Span<const PageId> pages, bool drop_zeros);

  // populate.cc, drop.cc
  absl::Status PopulatePiece(PageId first, uint64_t count, PageBuffer* buffer);
  void DropPages(absl::Span<const PageId> pages, std::optional<uint64_t> owner, std::vector<PageId>* busy = nullptr);
  std::vector<PageId> PagesOf(uint64_t owner);
  bool GivesZeros(Owner* owner, PageId page);
  void MakeZero(Record* record, std::vector<PoolSlot>* slots);
  void ResolveRecord(Record* record, Resolution resolution, std::vector<PoolSlot>* slots);

  void Wake(PageId page) const { uffd_->Wake(table_.Host(page, 1)); }
  bool Recording(const Owner& owner) const {
    return Clock::now() < owner.recording_until && owner.working_set.size() < memory_->size() / kPage;
  }

  const GuestMemory* const memory_;
  const PagerConfig config_;
  UniqueFd epoll_, stop_, timer_;

  // Held over UFFDIO_REGISTER and _UNREGISTER, and taken before mutex_. Chunk::registered changes under both.
  std::mutex registration_mutex_;
  std::set<uint64_t> unregister_;  // chunks that could not be, for want of mappings: tried again
  uint64_t ranges_ = 0;       // that are registered and do not touch
  std::optional<Uffd> uffd_;  // set once, before any page is recorded; then read without the lock

  mutable std::mutex mutex_;         // guards the rest; not held over any system call but timerfd_settime
  std::condition_variable changed_;  // a busy state has ended
  PageTable table_;                  // its const part without the lock
  std::map<uint64_t, Owner> owners_;
  std::map<PageId, Failure> failures_;
  std::map<uint64_t, Busy> busy_;  // by thread
  std::optional<Clock::time_point> watch_at_;  // then those that are busy are looked after
  std::vector<Told> losses_;  // not yet
  PagerStats stats_;
  // Claims of pages that have no record: nobody waits, somebody waits.
  Record hole_{.state = PageState::kComing};
  Record noted_hole_{.state = PageState::kComing};
};

// This thread serves faults as long as it lives.
class Pager::Serving {
 public:
  explicit Serving(Pager* pager);
  ~Serving();
  Serving(const Serving&) = delete;
  Serving& operator=(const Serving&) = delete;

 private:
  friend class Pager;
  Pager& pager_;
  const ServingThreads::Serving thread_;
  PageBuffer buffer_;
  Busy* busy_;
};

}  // namespace moult::host

#endif  // MOULT_HOST_PAGER_PAGER_H_
