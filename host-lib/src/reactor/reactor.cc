// SPDX-License-Identifier: Apache-2.0
#include "reactor/reactor.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "moult/base/status.h"

namespace moult::host {

absl::StatusOr<std::unique_ptr<Reactor>> Reactor::Create() {
  std::unique_ptr<Reactor> reactor(new Reactor);
  reactor->epoll_ = UniqueFd(epoll_create1(EPOLL_CLOEXEC));
  if (!reactor->epoll_.valid()) return ErrnoStatus("epoll_create1");
  reactor->kick_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!reactor->kick_.valid()) return ErrnoStatus("eventfd");
  reactor->timer_ = UniqueFd(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!reactor->timer_.valid()) return ErrnoStatus("timerfd_create");
  for (const int fd : {reactor->kick_.get(), reactor->timer_.get()}) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.ptr = nullptr;
    if (epoll_ctl(reactor->epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return ErrnoStatus("epoll_ctl");
  }
  return reactor;
}

void Reactor::Kick() {
  const uint64_t one = 1;
  // Fails only when the counter is full, and then it is readable anyway.
  [[maybe_unused]] const ssize_t n = write(kick_.get(), &one, sizeof(one));
}

void Reactor::CollectEvents() {
  uint64_t count;
  [[maybe_unused]] ssize_t n = read(kick_.get(), &count, sizeof(count));
  n = read(timer_.get(), &count, sizeof(count));
  epoll_event events[64];
  const int found = epoll_wait(epoll_.get(), events, 64, 0);
  for (int i = 0; i < found; ++i) {
    if (events[i].data.ptr != nullptr) static_cast<Strand*>(events[i].data.ptr)->Ready(absl::OkStatus());
  }
}

void Reactor::CollectOthers() {
  const auto now = Clock::now();
  for (Strand* strand : strands_) {
    if (strand->kind_ == Strand::Kind::kNone || strand->ready_) continue;
    if (strand->kind_ == Strand::Kind::kYield) {
      strand->Ready(absl::OkStatus());
      continue;
    }
    absl::Status result;
    if (strand->kind_ == Strand::Kind::kWork && strand->worker_->Done(&result)) {
      strand->Ready(std::move(result));
      continue;
    }
    absl::Status stop = strand->interruption();
    if (stop.ok() && strand->deadline_ <= now) {
      stop = absl::DeadlineExceededError(absl::StrCat("no ", strand->what_, " in time"));
    }
    if (stop.ok()) continue;
    if (strand->worker_->TakeBack()) {
      strand->Ready(std::move(stop));
    } else {
      strand->stop_.request_stop();
    }
  }
}

void Reactor::Poll() {
  CollectEvents();
  CollectOthers();
  const std::vector<Strand*> round = std::exchange(ready_, {});
  for (Strand* strand : round) {
    // One that is gone was taken out of strands_ by its destructor.
    if (std::find(strands_.begin(), strands_.end(), strand) == strands_.end()) continue;
    strand->ready_ = false;
    std::exchange(strand->handle_, nullptr).resume();
  }
  Arm();
}

void Reactor::Arm() {
  bool again = !ready_.empty();
  auto first = Clock::time_point::max();
  for (const Strand* strand : strands_) {
    if (strand->kind_ == Strand::Kind::kNone) continue;
    again = again || strand->kind_ == Strand::Kind::kYield;
    // Work that runs is told once that its time is up.
    if (strand->kind_ == Strand::Kind::kWork && strand->stop_.stop_requested()) continue;
    first = std::min(first, strand->deadline_);
  }
  if (again) Kick();
  itimerspec spec{};
  if (first != Clock::time_point::max()) {
    // CLOCK_MONOTONIC is what steady_clock counts; zero would disarm.
    const auto since = std::max<int64_t>(
        1, std::chrono::duration_cast<std::chrono::nanoseconds>(first.time_since_epoch()).count());
    spec.it_value.tv_sec = since / 1000000000;
    spec.it_value.tv_nsec = since % 1000000000;
  }
  timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &spec, nullptr);
}

Strand::Strand(Reactor* reactor, Clock::time_point deadline)
    : reactor_(reactor), deadline_(deadline), worker_(std::make_shared<Worker>(reactor)) {
  reactor_->strands_.push_back(this);
}

Strand::~Strand() {
  worker_->Close();
  std::erase(reactor_->strands_, this);
  std::erase(reactor_->ready_, this);
  if (kind_ == Kind::kFd) epoll_ctl(reactor_->epoll_.get(), EPOLL_CTL_DEL, fd_, nullptr);
}

uint32_t Strand::RemainingMs() const {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline_ - Clock::now()).count();
  return static_cast<uint32_t>(std::clamp<int64_t>(left, 1, 24 * 3600 * 1000));
}

void Strand::Cancel() {
  if (interrupted_.ok()) interrupted_ = absl::CancelledError("the operation was cancelled");
  if (!shielded_) stop_.request_stop();
  reactor_->Kick();
}

void Strand::Abort(absl::Status status) {
  interrupted_ = std::move(status);
  shielded_ = false;
  stop_.request_stop();
  reactor_->Kick();
}

// A guest that was reset has nothing any more that a shield could be for.
absl::Status Strand::interruption() const {
  return shielded_ && !absl::IsAborted(interrupted_) ? absl::OkStatus() : interrupted_;
}

void Strand::Ready(absl::Status result) {
  if (ready_) return;
  if (kind_ == Kind::kFd) epoll_ctl(reactor_->epoll_.get(), EPOLL_CTL_DEL, fd_, nullptr);
  kind_ = Kind::kNone;
  result_ = std::move(result);
  ready_ = true;
  reactor_->ready_.push_back(this);
}

void Worker::Offer(std::function<absl::Status()> work) {
  const std::lock_guard<std::mutex> lock(mutex_);
  state_ = State::kPending;
  work_ = std::move(work);
}

bool Worker::TakeBack() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (state_ == State::kRunning) return false;
  state_ = State::kNone;
  work_ = nullptr;
  return true;
}

bool Worker::Done(absl::Status* result) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (state_ != State::kDone) return false;
  state_ = State::kNone;
  *result = std::move(result_);
  return true;
}

void Worker::Close() {
  std::unique_lock<std::mutex> lock(mutex_);
  ended_.wait(lock, [this] { return state_ != State::kRunning; });
  state_ = State::kNone;
  work_ = nullptr;
}

bool Worker::Run() {
  std::function<absl::Status()> work;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (state_ != State::kPending) return false;
    state_ = State::kRunning;
    work = std::move(work_);
  }
  absl::Status result;
  try {
    result = work();
  } catch (...) {
    result = absl::ResourceExhaustedError("out of memory");
  }
  work = nullptr;
  const std::lock_guard<std::mutex> lock(mutex_);
  result_ = std::move(result);
  state_ = State::kDone;
  // Inside the lock: once Close has seen that we are done, the reactor may go.
  reactor_->Kick();
  ended_.notify_all();
  return true;
}

Strand::Wait Strand::Readable(int fd) {
  what_ = "answer from the agent";
  return Wait(this, fd, EPOLLIN);
}

Strand::Wait Strand::Writable(int fd) {
  what_ = "room to send to the agent";
  return Wait(this, fd, EPOLLOUT);
}

Strand::Wait Strand::Yield() {
  kind_ = Kind::kYield;
  return Wait(this, -1, 0);
}

Strand::Wait Strand::ForWake(const char* what) {
  kind_ = Kind::kWake;
  what_ = what;
  return Wait(this, -1, 0);
}

void Strand::Wake() {
  if (kind_ == Kind::kWake) Ready(absl::OkStatus());
  reactor_->Kick();
}

Strand::Wait Strand::Work(std::function<absl::Status()> work) {
  kind_ = Kind::kWork;
  what_ = "thread for disk work";
  worker_->Offer(std::move(work));
  return Wait(this, -1, 0);
}

bool Strand::Wait::await_ready() {
  absl::Status stop = strand_->interruption();
  // A deadline that has passed also ends waits that need not wait: a peer that sends a byte at a time, for
  // ever, must not.
  if (stop.ok() && strand_->kind_ != Kind::kWork && Clock::now() >= strand_->deadline_) {
    stop = absl::DeadlineExceededError(absl::StrCat("no ", strand_->what_, " in time"));
  }
  if (!stop.ok()) {
    strand_->worker_->TakeBack();
    strand_->kind_ = Kind::kNone;
    strand_->result_ = std::move(stop);
    return true;
  }
  if (strand_->kind_ != Kind::kWork || strand_->reactor_->work_hook_) return false;
  strand_->worker_->Run();
  strand_->kind_ = Kind::kNone;
  strand_->worker_->Done(&strand_->result_);
  return true;
}

bool Strand::Wait::await_suspend(std::coroutine_handle<> handle) {
  if (fd_ >= 0) {
    epoll_event event{};
    event.events = events_;
    event.data.ptr = strand_;
    if (epoll_ctl(strand_->reactor_->epoll_.get(), EPOLL_CTL_ADD, fd_, &event) != 0) {
      strand_->result_ = ErrnoStatus("epoll_ctl");
      return false;
    }
    strand_->kind_ = Kind::kFd;
    strand_->fd_ = fd_;
  }
  strand_->handle_ = handle;
  if (strand_->kind_ == Kind::kWork) strand_->reactor_->work_hook_(strand_);
  return true;
}

absl::Status Strand::Wait::await_resume() { return std::exchange(strand_->result_, absl::OkStatus()); }

}  // namespace moult::host
