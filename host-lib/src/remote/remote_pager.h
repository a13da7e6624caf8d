// SPDX-License-Identifier: Apache-2.0
//
// Shows templates that lie in a pool in windows of one vm, and brings their pages as they are touched
// (userfaultfd).
//
// A slot is a private mapping of the file behind RemotePages, registered for missing and minor faults: a page
// that the file has is mapped by UFFDIO_CONTINUE, read-only, so a write of the guest's is an ordinary copy,
// and what other VMs see stays. One that it has not is fetched, checked, put into the file, then mapped:
// alone, where the pool has the digests of single pages, and behind it the rest of its chunk; else with its chunk. Why nothing unchecked can come into the file through a slot: it is mapped without access
// (PROT_NONE), registered, and only then made accessible; it is replaced by one mmap(MAP_FIXED); when this
// object goes before the process does, holes are covered first; a child does not get it (MADV_DONTFORK); when
// the process dies, its last thread drops the memory before the userfaultfd. Why no wrong byte is seen: see
// remote_pages.h.
//
// A fault waits for one fetch, whose time is bounded. When the pool does not give it, the slot is
// lost: every function that uses it is told of, once, and who waits goes on waiting until Resolve() was
// called for each of them. Nothing that such a slot has is given to another function.
#ifndef MOULT_HOST_REMOTE_REMOTE_PAGER_H_
#define MOULT_HOST_REMOTE_REMOTE_PAGER_H_

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "moult/base/unique_fd.h"
#include "pager/page_buffer.h"
#include "pager/pager.h"
#include "pager/uffd.h"
#include "remote/remote_pages.h"
#include "remote/stats.h"
#include "serving/serving_threads.h"

namespace moult::host {

struct RemoteConfig {
  std::shared_ptr<ServingThreads> threads;             // those in Serve; null: of its own
  RemoteRetry retry;                                   // of a fault
  uint64_t prefetch_bytes_per_s = 0;                   // behind the working set; 0: none
  std::chrono::milliseconds working_set_window{1000};  // after the first function uses a slot
  // `page` of a slot that `function` uses, which was touched, is lost. Also told for function 0, which stands
  // for attaches that go on. On a thread of Serve, without a lock: must not block.
  std::function<void(uint64_t function, const std::byte* page, const absl::Status& why)> lost;
};

// What one slot took from where.
struct SlotBytes {
  uint64_t cache = 0;  // mapped, and the host had it
  uint64_t pool = 0;   // fetched
};

// Show, Forget and SetUsers: one thread at a time. The rest is safe for several threads.
class RemotePager {
 public:
  using Clock = RemotePages::Clock;

  static absl::StatusOr<std::unique_ptr<RemotePager>> Create(RemoteConfig config);
  // After Stop and the end of every call. Slots stay mapped; what is not there yet reads as zero from then
  // on.
  ~RemotePager();

  // Maps `pages` at `at`, over what is there. Nobody uses it yet. On an error something may be half mapped.
  absl::Status Show(std::byte* at, std::shared_ptr<RemotePages> pages);
  // The slot at `at` is about to be replaced by another mapping.
  void Forget(const std::byte* at);
  // Which functions use it now. One that is new while the slot is lost is told of at once, on this thread.
  void SetUsers(const std::byte* at, const std::set<uint64_t>& users);
  // It is lost, or was: no other function may use it.
  bool spoiled(const std::byte* at) const;
  SlotBytes bytes(const std::byte* at) const;

  // Serves faults, and prefetches, until Stop; as many threads of the embedder as it likes: one of them is kept free for
  // faults, when there are several. For a loop that serves others as well: ServeReady when fd() is readable, or after
  // WaitMs(), on a thread that is one of `threads`; false: it was stopped. What a thread that ends by itself was in the
  // midst of is taken up by another as Pager's; a slot that ended kMostDeaths of them is lost.
  void Serve();
  int fd() const { return epoll_.get(); }
  int WaitMs() const;  // -1: until fd() is readable
  bool ServeReady(PageBuffer* buffer);
  static constexpr size_t kBufferPages = 256;  // what ServeReady needs
  void Stop();

  // After it the range, which lies in one slot, can be read without a read of the pool. Blocks.
  absl::Status Populate(absl::Span<const std::byte> range);

  // As Pager::Resolve, of a function that was told of; 0: of attaches. kNotFound: it was not.
  absl::Status Resolve(uint64_t function, Resolution resolution);

  RemoteStats stats() const;

 private:
  enum class Fate : uint8_t { kServed, kLost, kZero, kPoison };
  struct Slot {
    std::byte* base = nullptr;
    std::shared_ptr<RemotePages> pages;
    std::vector<bool> busy;  // chunks that a thread fetches, and then maps
    std::set<uint64_t> alone;  // pages that a thread fetches for a fault, and then maps
    std::set<uint64_t> users;
    Fate fate = Fate::kServed;
    std::set<uint64_t> told;  // functions that Resolve is waited for
    bool retry = false;       // one of those who were told wants it back
    SlotBytes bytes;
    // The working set: what was known, what is touched now, and until when that is recorded.
    std::vector<uint64_t> known, touched;
    std::vector<bool> in_set;
    bool recording = true;
    Clock::time_point record_until = Clock::time_point::max();
    // Prefetch.
    std::deque<uint64_t> begun;  // chunks of which a fault has fetched a page
    Clock::time_point rest_at{};  // when the rest of one may be fetched
    std::deque<uint64_t> urgent;
    uint64_t digests = 0;  // of chunks below it they were fetched
    uint64_t behind = 0;  // chunks below it are done, or not wanted
    int deaths = 0;       // threads that ended as they fetched for a fault
    Clock::time_point next_at = Clock::time_point::min();
    absl::Span<std::byte> memory() const { return {base, pages->size()}; }
    absl::Span<std::byte> chunk(uint64_t i) const;
    PageSet ChunkPages(uint64_t i) const;
  };
  using SlotPtr = std::shared_ptr<Slot>;
  struct Lost {
    std::vector<uint64_t> functions;
    const std::byte* page = nullptr;
    absl::Status why;
  };

  // What a thread is in the midst of.
  struct Busy {
    SlotPtr slot;
    std::vector<uint64_t> chunks;
    const std::byte* page = nullptr;  // of a fault, which it fetches alone if there are no chunks; else it prefetches
  };
  static constexpr int kMostDeaths = 3;

  explicit RemotePager(RemoteConfig config) : config_(std::move(config)) {}
  absl::Status OpenUffd();
  SlotPtr Find(const std::byte* address) const;
  bool Live(const Slot& slot) const;
  void Wake();

  // serve.cc
  void ServeFault(const Uffd::Fault& fault, PageBuffer* buffer);
  bool ServeWithout(Slot& slot, const Uffd::Fault& fault);
  absl::Status Fetch(const SlotPtr& slot, uint64_t chunk, const std::byte* page, PageBuffer* buffer, std::unique_lock<std::mutex>* lock);
  uint64_t Put(Slot& slot, uint64_t chunk, const PageSet& pages, const std::byte* content, bool kept, absl::Status* status);
  void Lose(Slot& slot, const std::byte* page, const absl::Status& why, Lost* lost);
  void Tell(const Lost& lost) const;
  void Touched(Slot& slot, uint64_t chunk);

  // takeover.cc
  int Prefetchers() const;
  int MostPrefetchers() const { return std::max(1, config_.threads->Ready() - 1); }
  void Begin(Busy busy);
  void TakeOver();
  void EndWork(const Busy& busy, Lost* lost);

  // prefetch.cc
  Clock::time_point NextStep() const;
  void Step(PageBuffer* buffer);
  Clock::time_point NextPrefetch(const Slot& slot) const;
  bool WantsDigests(const Slot& slot) const;
  void FetchRest(const SlotPtr& slot, PageBuffer* buffer, std::unique_lock<std::mutex>* lock);
  void FetchDigests(const SlotPtr& slot, std::unique_lock<std::mutex>* lock);
  void PrefetchSome(const SlotPtr& slot, PageBuffer* buffer, std::unique_lock<std::mutex>* lock);
  std::vector<uint64_t> TakeChunks(Slot& slot, bool* urgent);

  const RemoteConfig config_;
  UniqueFd epoll_, stop_, wake_;
  std::atomic<bool> stopping_ = false;

  // Guards the rest. Held over UFFDIO_CONTINUE, _COPY and _WAKE, which wait for nobody, so that a slot is not
  // replaced meanwhile; not over a read of the pool, nor over what puts pages into the file.
  mutable std::mutex mutex_;
  std::optional<Uffd> uffd_;  // set once, before the first slot; then read without the lock
  std::map<const std::byte*, SlotPtr> slots_;
  std::map<uint64_t, Busy> busy_;               // by thread
  Clock::time_point watch_at_ = Clock::time_point::max();  // then those that are busy are looked after
  uint64_t watcher_ = 0;  // the thread that was woken last: it waits until then at most
  RemoteStats stats_;
};

}  // namespace moult::host

#endif  // MOULT_HOST_REMOTE_REMOTE_PAGER_H_
