// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_ADAPTERS_QEMU_MAIN_LOOP_H_
#define MOULT_ADAPTERS_QEMU_MAIN_LOOP_H_

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>

#include "qemu_api.h"

namespace moult::qemu {

// Has functions run in QEMU's main loop, where its big lock is held. Used from the adapter's thread, which
// holds none of QEMU's locks while it waits.
class MainLoop {
 public:
  explicit MainLoop(const Api& api) : api_(api) {}

  // True once `work` has run; false when that took too long (it may run later, so it must own what it uses)
  // or QEMU is ending.
  bool Run(std::function<void()> work, std::chrono::milliseconds longest);
  // QEMU is ending and its main loop runs no more: nobody waits from now on.
  void End();

 private:
  struct Job;
  const Api& api_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;
};

}  // namespace moult::qemu

#endif  // MOULT_ADAPTERS_QEMU_MAIN_LOOP_H_
