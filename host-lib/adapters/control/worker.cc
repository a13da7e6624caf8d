// SPDX-License-Identifier: Apache-2.0
#include "worker.h"

#include <pthread.h>
#include <signal.h>

namespace moult::control {

std::thread StartThread(const char* name, std::function<void()> body) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread(std::move(body));
  pthread_setname_np(thread.native_handle(), name);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

Worker::~Worker() { Stop(); }

void Worker::Post(std::function<void()> task) {
  std::lock_guard lock(mutex_);
  if (stop_) return;
  tasks_.push_back(std::move(task));
  if (!thread_.joinable()) thread_ = StartThread("moult-disk", [this] { Loop(); });
  changed_.notify_one();
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
