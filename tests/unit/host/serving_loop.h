// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_TESTS_UNIT_HOST_SERVING_LOOP_H_
#define MOULT_TESTS_UNIT_HOST_SERVING_LOOP_H_

#include <gtest/gtest.h>
#include <sys/epoll.h>

#include <atomic>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "moult/base/unique_fd.h"
#include "pager/events.h"
#include "serving/serving_threads.h"

namespace moult::host::testing {

// Threads that do each other's jobs, as a pager has them: what wakes them wakes one.
class ServingLoop {
 public:
  explicit ServingLoop(std::shared_ptr<ServingThreads> threads) : threads_(std::move(threads)) {}
  ServingLoop(const ServingLoop&) = delete;
  ServingLoop& operator=(const ServingLoop&) = delete;
  ~ServingLoop() { Stop(); }

  void Start(int threads) {
    ASSERT_TRUE(AddEvent(epoll_.get(), threads_->fd(), Event::kJobs, /*once=*/true).ok());
    for (int i = 0; i < threads; ++i) {
      each_.emplace_back([this] {
        const ServingThreads::Serving serving(threads_.get());
        while (!stop_) {
          epoll_event event;
          if (epoll_wait(epoll_.get(), &event, 1, 5) > 0) threads_->RunJobs();
        }
      });
    }
    while (threads_->count() < threads) std::this_thread::yield();
  }
  void Stop() {
    stop_ = true;
    for (std::thread& thread : each_) thread.join();
    each_.clear();
  }
  const std::vector<std::thread>& each() const { return each_; }

 private:
  const std::shared_ptr<ServingThreads> threads_;
  const UniqueFd epoll_{epoll_create1(EPOLL_CLOEXEC)};
  std::atomic<bool> stop_ = false;
  std::vector<std::thread> each_;
};

}  // namespace moult::host::testing

#endif  // MOULT_TESTS_UNIT_HOST_SERVING_LOOP_H_
