// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_BASE_QUIET_THREAD_H_
#define MOULT_BASE_QUIET_THREAD_H_

#include <pthread.h>

#include <csignal>
#include <functional>
#include <thread>
#include <utility>

namespace moult {

// Runs `work` with every signal blocked, so that the program's handlers never run in one of our threads.
inline std::thread StartQuietThread(std::function<void()> work) {
  sigset_t all;
  sigset_t old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  std::thread thread(std::move(work));
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  return thread;
}

}  // namespace moult

#endif  // MOULT_BASE_QUIET_THREAD_H_
