// SPDX-License-Identifier: Apache-2.0
#include "serving/serving_threads.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"

namespace moult::host {

// The thread holds `lives` for as long as it is one of them. The kernel says so to who tries to take it when a thread
// ends that holds it, however it ends.
struct ServingThreads::Member {
  explicit Member(uint64_t id) : number(id) {
    pthread_mutexattr_t kind;
    pthread_mutexattr_init(&kind);
    pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&lives, &kind);
    pthread_mutexattr_destroy(&kind);
    pthread_mutex_lock(&lives);
  }
  ~Member() { pthread_mutex_destroy(&lives); }
  bool TakeFromDead() {
    if (pthread_mutex_trylock(&lives) != EOWNERDEAD) return false;
    pthread_mutex_consistent(&lives);
    pthread_mutex_unlock(&lives);
    return true;
  }

  const uint64_t number;
  pthread_mutex_t lives;
  JobPtr runs;
  JobPtr waits_for;
};

namespace {

struct Here {
  const ServingThreads* threads = nullptr;
  void* member = nullptr;
};
thread_local Here here;

}  // namespace

absl::StatusOr<std::shared_ptr<ServingThreads>> ServingThreads::Create() {
  UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake.valid()) return ErrnoStatus("threads that serve faults: eventfd");
  return std::shared_ptr<ServingThreads>(new ServingThreads(std::move(wake)));
}

ServingThreads::ServingThreads(UniqueFd wake) : wake_(std::move(wake)) {}
ServingThreads::~ServingThreads() = default;

ServingThreads::Member* ServingThreads::Mine() const {
  return here.threads == this ? static_cast<Member*>(here.member) : nullptr;
}

ServingThreads::Serving::Serving(ServingThreads* threads) : threads_(threads) {
  if (threads_ == nullptr) return;
  if (threads_->Mine() != nullptr) {
    threads_ = nullptr;
    return;
  }
  // Before the lock, as it is held whenever that is taken.
  auto mine = std::make_unique<Member>(++threads_->last_number_);
  {
    const std::lock_guard<std::mutex> lock(threads_->mutex_);
    threads_->Bury();
    here = {threads_, mine.get()};
    threads_->members_.push_back(std::move(mine));
  }
  threads_->Wake();  // There may be jobs for which there were too few.
}

ServingThreads::Serving::~Serving() {
  if (threads_ == nullptr) return;
  Member* const mine = threads_->Mine();
  here = {};
  const std::lock_guard<std::mutex> lock(threads_->mutex_);
  // Where it leaves by an exception, or is cancelled.
  if (mine->runs != nullptr || mine->waits_for != nullptr) ++threads_->died_;
  threads_->Abandon(mine);
  pthread_mutex_unlock(&mine->lives);
  std::erase_if(threads_->members_, [&](const auto& each) { return each.get() == mine; });
  threads_->changed_.notify_all();
}

void ServingThreads::Wake() const {
  const uint64_t one = 1;
  (void)!write(wake_.get(), &one, sizeof(one));
}

// What it did for others, and had done for itself.
void ServingThreads::Abandon(Member* member) {
  if (const JobPtr& job = member->runs; job != nullptr) {
    job->result_ = absl::UnavailableError("the thread that did it has ended by itself");
    job->state_ = Job::State::kEnded;
    job->Ended();
  }
  if (const JobPtr& job = member->waits_for; job != nullptr) {
    if (job->state_ == Job::State::kWaits) std::erase(jobs_, job);
    job->wanted_ = false;
  }
}

// Those that have ended by themselves.
void ServingThreads::Bury() {
  bool any = false;
  std::erase_if(members_, [&](const std::unique_ptr<Member>& member) {
    if (!member->TakeFromDead()) return false;
    Abandon(member.get());
    ++died_;
    return any = true;
  });
  if (!any) return;
  changed_.notify_all();
  Wake();
}

size_t ServingThreads::Running() const {
  return static_cast<size_t>(
      std::count_if(members_.begin(), members_.end(), [](const auto& each) { return each->runs != nullptr; }));
}

// Those that do nothing else for long.
size_t ServingThreads::Held() const {
  return static_cast<size_t>(std::count_if(members_.begin(), members_.end(), [](const auto& each) {
    return each->runs != nullptr && (each->runs->slow_ || !each->runs->wanted_);
  }));
}

// That may begin now; end(): none.
std::deque<ServingThreads::JobPtr>::iterator ServingThreads::Next() {
  const size_t running = Running();
  return std::find_if(jobs_.begin(), jobs_.end(), [&](const JobPtr& job) { return running + (job->slow_ ? 2 : 1) < members_.size(); });
}

absl::Status ServingThreads::RunNow(Job* job) {
  try {
    return job->Run();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory");
  }
}

void ServingThreads::RunJobs() {
  Member* const mine = Mine();
  if (mine == nullptr) return;
  std::unique_lock<std::mutex> lock(mutex_);
  for (auto next = Next(); next != jobs_.end(); next = Next()) {
    const JobPtr job = std::move(*next);
    jobs_.erase(next);
    job->state_ = Job::State::kRuns;
    mine->runs = job;
    // What was posted while nobody had looked woke one thread.
    const bool more = Next() != jobs_.end();
    lock.unlock();
    if (more) Wake();
    absl::Status result = RunNow(job.get());
    lock.lock();
    if (!job->wanted_ && result.ok()) {
      // It may block as well, so this thread still counts as one that does.
      lock.unlock();
      job->Unwanted();
      lock.lock();
    }
    job->result_ = std::move(result);
    job->state_ = Job::State::kEnded;
    job->Ended();
    mine->runs = nullptr;
    changed_.notify_all();
  }
}

// Why nobody would do it: then it is not waited for.
absl::Status ServingThreads::Refuse(bool serves, const Call& call) const {
  const size_t all = members_.size();
  if (all == 1) {
    return absl::UnavailableError(absl::StrCat(call.who, ": one thread alone serves faults, and must not wait for a ", call.what,
                                               "; let a second run moult_pager_run()"));
  }
  const auto stuck = static_cast<size_t>(std::count_if(members_.begin(), members_.end(), [](const auto& each) {
    return each->runs != nullptr && !each->runs->wanted_;
  }));
  if (stuck + (call.slow ? 2 : 1) >= all) {
    return absl::UnavailableError(absl::StrCat(call.who, " does not answer: a ", call.what, " is not begun while ", stuck,
                                               " earlier that took too long ", stuck == 1 ? "goes" : "go",
                                               " on; look at its file system"));
  }
  const auto waiting = static_cast<size_t>(
      std::count_if(members_.begin(), members_.end(), [](const auto& each) { return each->waits_for != nullptr; }));
  // If all waited, or were at what takes long, nobody would do what they wait for.
  if (serves && waiting + Held() + 1 >= all)
    return absl::UnavailableError(absl::StrCat(call.who, ": all threads that serve faults wait for such as this ", call.what));
  return absl::OkStatus();
}

absl::Status ServingThreads::Begin(const JobPtr& job, const Call& call) {
  std::unique_lock<std::mutex> lock(mutex_);
  Bury();
  if (!members_.empty()) {
    Member* const mine = Mine();
    MOULT_RETURN_IF_ERROR(Refuse(mine != nullptr, call));
    job->slow_ = call.slow;
    jobs_.push_back(job);
    if (mine != nullptr) mine->waits_for = job;
    lock.unlock();
    Wake();
    return absl::OkStatus();
  }
  lock.unlock();
  absl::Status result = RunNow(job.get());
  lock.lock();
  job->result_ = std::move(result);
  job->state_ = Job::State::kEnded;
  return absl::OkStatus();
}

absl::Status ServingThreads::Await(const JobPtr& job, const Call& call) {
  std::unique_lock<std::mutex> lock(mutex_);
  Member* const mine = Mine();
  const auto deadline = std::chrono::steady_clock::now() + call.most;
  while (job->state_ != Job::State::kEnded && std::chrono::steady_clock::now() < deadline) {
    changed_.wait_until(lock, std::min(deadline, std::chrono::steady_clock::now() + kLook));
    Bury();  // Whoever does it may have died.
  }
  if (mine != nullptr) mine->waits_for = nullptr;
  if (job->state_ == Job::State::kEnded) return job->result_;
  job->wanted_ = false;
  if (job->state_ == Job::State::kWaits) {
    std::erase(jobs_, job);
    return absl::UnavailableError(absl::StrCat(call.who, ": a ", call.what, " has not begun within ", call.most.count(),
                                               " ms: the threads that might do it are at something else that takes long; try again when "
                                               "that has ended, or let more run moult_pager_run()"));
  }
  return absl::UnavailableError(absl::StrCat(call.who, " does not answer: a ", call.what, " has not ended within ",
                                             call.most.count(), " ms; look at its file system"));
}

absl::Status ServingThreads::Do(const JobPtr& job, const Call& call) {
  MOULT_RETURN_IF_ERROR(Begin(job, call));
  return Await(job, call);
}

void ServingThreads::Post(const JobPtr& job) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    jobs_.push_back(job);
  }
  Wake();
}

bool ServingThreads::Left(const Job& job) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return !job.wanted_ && job.state_ != Job::State::kWaits;
}

std::optional<absl::Status> ServingThreads::Result(const Job& job) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (job.state_ != Job::State::kEnded) return std::nullopt;
  return job.result_;
}

uint64_t ServingThreads::me() const {
  const Member* const mine = Mine();
  return mine != nullptr ? mine->number : 0;
}

bool ServingThreads::Gone(uint64_t thread) {
  const std::lock_guard<std::mutex> lock(mutex_);
  Bury();
  return std::none_of(members_.begin(), members_.end(), [&](const auto& each) { return each->number == thread; });
}

int ServingThreads::count() {
  const std::lock_guard<std::mutex> lock(mutex_);
  Bury();
  return static_cast<int>(members_.size());
}

int ServingThreads::Ready() {
  const std::lock_guard<std::mutex> lock(mutex_);
  Bury();
  return static_cast<int>(members_.size() - Held());
}

}  // namespace moult::host
