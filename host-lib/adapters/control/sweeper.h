// SPDX-License-Identifier: Apache-2.0
//
// Has the pool room of functions that have ended given back (moult_vm_sweep()), whoever found out that they have.
#ifndef MOULT_ADAPTERS_CONTROL_SWEEPER_H_
#define MOULT_ADAPTERS_CONTROL_SWEEPER_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

#include "message.h"
#include "moult/moult.h"

namespace moult::control {

// One sweep at a time, which no call waits for. After one that has failed the next comes a moment later, and later each time;
// a function that ends meanwhile does not wait for that. Threads: the vm's.
class Sweeper {
 public:
  using Clock = std::chrono::steady_clock;
  struct Hooks {
    std::function<void(int level, const std::string& message)> log;  // as moult_vm_options.log; may be empty
    std::function<void(moult_op*)> free;                             // of an operation that has ended
  };

  Sweeper(moult_vm* vm, Hooks hooks) : vm_(vm), hooks_(std::move(hooks)) {}
  ~Sweeper() { moult_op_free(op_); }
  Sweeper(const Sweeper&) = delete;
  Sweeper& operator=(const Sweeper&) = delete;

  // When Tick() has something to do; max: when something else happens first.
  Clock::time_point next() const;
  void Tick();

  // As `sweep` in control.md has it.
  Json Describe() const;

 private:
  void Done();
  void Failed(const absl::Status& status);

  moult_vm* const vm_;  // may be null
  const Hooks hooks_;
  moult_op* op_ = nullptr;
  size_t known_ = 0;  // functions that were to be swept when the last sweep began, or ended
  Clock::time_point wake_{};
  Clock::duration pause_{};
  absl::Status trouble_;
  std::string told_;  // what the log has
  uint64_t sweeps_ = 0, failures_ = 0;
};

}  // namespace moult::control

#endif  // MOULT_ADAPTERS_CONTROL_SWEEPER_H_
