// SPDX-License-Identifier: Apache-2.0
//
// The threads that the embedder lends to serve faults of a vm. What may block without an end is done by them in
// the stead of who wants it, and never by the last one; and one that ends by itself (pthread_exit, a seccomp
// filter that kills the thread) is found out, so that others can take over what it had begun.
#ifndef MOULT_HOST_SERVING_SERVING_THREADS_H_
#define MOULT_HOST_SERVING_SERVING_THREADS_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <mutex>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "moult/base/unique_fd.h"

namespace moult::host {

// Safe for several threads. A thread that dies while it holds one of our locks is out of reach: none is held over what may
// block, or that a filter of system calls would be made for.
class ServingThreads {
 public:
  // What may block. From the beginning of Run to its end it is its thread's alone.
  class Job {
   public:
    virtual ~Job() = default;

   protected:
    virtual absl::Status Run() = 0;
    // After a Run that went well, on the same thread: nobody waits for it any more.
    virtual void Unwanted() {}
    // As its end is made known, also where its thread has died: does not block.
    virtual void Ended() {}

   private:
    friend class ServingThreads;
    enum class State { kWaits, kRuns, kEnded } state_ = State::kWaits;
    bool wanted_ = true;
    bool slow_ = false;
    absl::Status result_;
  };
  using JobPtr = std::shared_ptr<Job>;

  static absl::StatusOr<std::shared_ptr<ServingThreads>> Create();
  ~ServingThreads();

  // As long as it lives this thread serves faults, and takes its turn in RunJobs. A second one on the same thread
  // does nothing. Null: no such.
  class Serving {
   public:
    explicit Serving(ServingThreads* threads);
    ~Serving();
    Serving(const Serving&) = delete;
    Serving& operator=(const Serving&) = delete;

   private:
    ServingThreads* threads_;
  };
  // Becomes readable, edge by edge, when there is something for RunJobs.
  int fd() const { return wake_.get(); }
  void RunJobs();

  struct Call {  // for messages, and how long it is waited for
    absl::string_view who;   // "pool file:/p"
    absl::string_view what;  // "read"
    std::chrono::milliseconds most;
    // Takes its time where all is well, so a page is not to wait for it: it leaves two threads, one for what is not slow.
    bool slow = false;
  };
  // So many there must be for what is slow.
  static constexpr int kForSlow = 3;
  // Has it done, and waits for it. kUnavailable: not done; it goes on where Left says so. With no thread that serves
  // the caller does it himself, without a bound; one alone does nothing for others.
  absl::Status Do(const JobPtr& job, const Call& call);
  // The same in two steps. An Await must follow a Begin that went well.
  absl::Status Begin(const JobPtr& job, const Call& call);
  absl::Status Await(const JobPtr& job, const Call& call);
  // Has it done some time; nobody waits.
  void Post(const JobPtr& job);
  // Nobody waits for it, and it was begun.
  bool Left(const Job& job) const;
  // Of one that has ended.
  std::optional<absl::Status> Result(const Job& job) const;

  // Which of them this thread is; 0: none.
  uint64_t me() const;
  // A thread that was among them, and is no more.
  bool Gone(uint64_t thread);
  // How many there are.
  int count();
  // Of these, who are at nothing that takes long for others.
  int Ready();
  // So often who waits for one looks whether it lives.
  static constexpr std::chrono::milliseconds kLook{250};
  // How many have ended by themselves since the last call.
  int TakeDied() { return died_.exchange(0); }

 private:
  struct Member;
  explicit ServingThreads(UniqueFd wake);
  void Wake() const;
  void Bury();
  size_t Running() const;
  size_t Held() const;
  std::deque<JobPtr>::iterator Next();
  absl::Status Refuse(bool serves, const Call& call) const;
  void Abandon(Member* member);
  static absl::Status RunNow(Job* job);
  Member* Mine() const;

  const UniqueFd wake_;
  std::atomic<int> died_ = 0;
  std::atomic<uint64_t> last_number_ = 0;
  mutable std::mutex mutex_;  // guards the rest; not held over a job
  std::condition_variable changed_;
  std::list<std::unique_ptr<Member>> members_;
  std::deque<JobPtr> jobs_;  // that nobody has begun
};

}  // namespace moult::host

#endif  // MOULT_HOST_SERVING_SERVING_THREADS_H_
