// SPDX-License-Identifier: Apache-2.0
#include "worker.h"

#include <pthread.h>
#include <signal.h>

#include <system_error>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"

namespace moult::control {

absl::StatusOr<std::thread> StartThread(const char* name, std::function<void()> body) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  absl::StatusOr<std::thread> thread = absl::UnknownError("");
  try {
    thread = std::thread(std::move(body));
    pthread_setname_np(thread->native_handle(), name);
  } catch (const std::system_error& e) {
    const absl::Status status = ErrnoStatus(e.code().value(), absl::StrCat("start thread ", name));
    thread = WithRemedy(status, "raise the limit of tasks (ulimit -u, TasksMax= of a unit, pids.max of a cgroup), or of mappings (vm.max_map_count)");
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

Worker::~Worker() { Stop(); }

absl::Status Worker::Post(std::function<void()> task) {
  std::lock_guard lock(mutex_);
  if (stop_) return absl::OkStatus();
  if (!thread_.joinable()) {
    MOULT_ASSIGN_OR_RETURN(thread_, StartThread("moult-disk", [this] { Loop(); }));
  }
  tasks_.push_back(std::move(task));
  changed_.notify_one();
  return absl::OkStatus();
}

void Worker::Stop() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    tasks_.clear();
    changed_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

void Worker::Loop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stop_ || !tasks_.empty(); });
    if (stop_) return;
    const std::function<void()> task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    task();
    lock.lock();
  }
}

}  // namespace moult::control
