// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_ADAPTERS_CONTROL_WORKER_H_
#define MOULT_ADAPTERS_CONTROL_WORKER_H_

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "absl/status/statusor.h"

namespace moult::control {

// One thread for what blocks on the disk, so that the control socket goes on answering. It runs with all
// signals blocked: they are the embedder's. Tasks are done one after another; those that are left at the end
// are not run.
class Worker {
 public:
  // The thread starts with the first task: a library that is never used has none.
  Worker() = default;
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Any thread. On an error, that of StartThread(), nobody does the task.
  absl::Status Post(std::function<void()> task);
  // Waits for the task that runs, and forgets the others. Any thread but the worker's.
  void Stop();

 private:
  void Loop();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  bool stop_ = false;
  std::thread thread_;
};

// Starts a thread with all signals blocked and a name for `ps -T`. kUnavailable, kResourceExhausted: the kernel gives none.
absl::StatusOr<std::thread> StartThread(const char* name, std::function<void()> body);

}  // namespace moult::control

#endif  // MOULT_ADAPTERS_CONTROL_WORKER_H_
