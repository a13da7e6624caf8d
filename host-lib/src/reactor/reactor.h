// SPDX-License-Identifier: Apache-2.0
//
// Waits of many operations behind one pollable descriptor, with no thread of its own.
#ifndef MOULT_HOST_REACTOR_REACTOR_H_
#define MOULT_HOST_REACTOR_REACTOR_H_

#include <chrono>
#include <condition_variable>
#include <coroutine>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <stop_token>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "moult/base/unique_fd.h"

namespace moult::host {

using Clock = std::chrono::steady_clock;

class Reactor;

// Work of one operation that may block, done by whichever thread comes for it. Outlives the strand, because
// that thread may be about to come when the vm is closed.
class Worker {
 public:
  explicit Worker(Reactor* reactor) : reactor_(reactor) {}
  // Does work that waits; any one thread. False: there is none.
  bool Run();

 private:
  friend class Strand;
  friend class Reactor;
  enum class State { kNone, kPending, kRunning, kDone };
  void Offer(std::function<absl::Status()> work);
  // Takes work back that nobody has begun. False: it runs.
  bool TakeBack();
  bool Done(absl::Status* result);
  // Waits for work that runs: it uses what the coroutine owns. No work after it.
  void Close();

  std::mutex mutex_;  // guards the rest
  std::condition_variable ended_;
  Reactor* const reactor_;
  State state_ = State::kNone;
  std::function<absl::Status()> work_;
  absl::Status result_;
};

// What one operation waits for: at most one thing at a time, and never past its deadline. All on the vm's
// thread.
class Strand {
 public:
  Strand(Reactor* reactor, Clock::time_point deadline);
  Strand(const Strand&) = delete;
  Strand& operator=(const Strand&) = delete;
  ~Strand();

  Clock::time_point deadline() const { return deadline_; }
  // Work that begins from now on has this time.
  void set_deadline(Clock::time_point deadline) {
    deadline_ = deadline;
    stop_ = {};
  }
  uint32_t RemainingMs() const;

  // The operation's waits end with kCancelled from now on, unless shielded: what must be finished, is.
  void Cancel();
  // The vm is told that all is over (guest reset): as Cancel, with another status, shield or not.
  void Abort(absl::Status status);
  void set_shielded(bool shielded) { shielded_ = shielded; }
  // What a wait would end with, were one begun now; OK: it is not to stop.
  absl::Status interruption() const;

  class [[nodiscard]] Wait {
   public:
    Wait(Strand* strand, int fd, uint32_t events) : strand_(strand), fd_(fd), events_(events) {}
    bool await_ready();
    bool await_suspend(std::coroutine_handle<> handle);
    absl::Status await_resume();

   private:
    Strand* const strand_;
    const int fd_;
    const uint32_t events_;
  };

  // `fd` is readable (writable), or has failed.
  Wait Readable(int fd);
  Wait Writable(int fd);
  // Lets others go on; resumes in the next round. fd -1, no events.
  Wait Yield();
  // Until Wake(); `what` is for the message of a deadline.
  Wait ForWake(const char* what);
  void Wake();
  // Runs `work`, which may block: here and now, or, when the embedder has a thread for it, there.
  Wait Work(std::function<absl::Status()> work);

  // For work that can end early: the operation was cancelled, or its time is up.
  std::stop_token stop_token() const { return stop_.get_token(); }
  // Waits for work that runs; none is begun after it.
  void AwaitWork() { worker_->Close(); }

  const std::shared_ptr<Worker>& worker() const { return worker_; }

 private:
  friend class Reactor;
  enum class Kind { kNone, kFd, kYield, kWake, kWork };

  void Ready(absl::Status result);

  Reactor* const reactor_;
  Clock::time_point deadline_;
  bool shielded_ = false;
  absl::Status interrupted_;
  std::stop_source stop_;
  Kind kind_ = Kind::kNone;
  const char* what_ = "";
  int fd_ = -1;
  bool ready_ = false;
  std::coroutine_handle<> handle_;
  absl::Status result_;
  const std::shared_ptr<Worker> worker_;
};

class Reactor {
 public:
  static absl::StatusOr<std::unique_ptr<Reactor>> Create();

  // Readable when Poll has something to do.
  int fd() const { return epoll_.get(); }
  // Resumes each strand that can go on, once.
  void Poll();
  // From any thread: fd() becomes readable.
  void Kick();
  // Called when a strand has work; empty: work is done in place.
  void set_work_hook(std::function<void(Strand*)> hook) { work_hook_ = std::move(hook); }

 private:
  friend class Strand;
  Reactor() = default;
  void CollectEvents();
  void CollectOthers();
  void Arm();

  UniqueFd epoll_;
  UniqueFd kick_;
  UniqueFd timer_;
  std::function<void(Strand*)> work_hook_;
  std::vector<Strand*> strands_;
  std::vector<Strand*> ready_;
};

}  // namespace moult::host

#endif  // MOULT_HOST_REACTOR_REACTOR_H_
