// SPDX-License-Identifier: Apache-2.0
//
// Carries out keep-alive policies (moult/policy.h) for functions whose requests come through the control socket: lets
// them stand still, moves their pages to the pool bit by bit, brings them back when a request comes, ends them.
#ifndef MOULT_ADAPTERS_CONTROL_KEEPER_H_
#define MOULT_ADAPTERS_CONTROL_KEEPER_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "message.h"
#include "moult/policy.h"

namespace moult::control {

// One operation of a function at a time. A request waits for none of them: what is under way for an idle function is
// cancelled, and the request's bytes wait in the function's socket until it runs. Threads: the vm's.
class Keeper {
 public:
  using Clock = std::chrono::steady_clock;
  struct Hooks {
    std::function<void(int level, const std::string& message)> log;  // as moult_vm_options.log; may be empty
    std::function<void(moult_op*)> free;                             // of an operation that has ended
  };

  Keeper(moult_vm* vm, Hooks hooks);
  ~Keeper();
  Keeper(const Keeper&) = delete;
  Keeper& operator=(const Keeper&) = delete;

  // `spec` as moult_policy_open() has it; "off": it is let run, and then left alone. A function with a new policy counts
  // as idle from now on, if no request is under way. Errors: those of moult_policy_open(); kNotFound: "off" for one that
  // has none. A function that is not there is forgotten as soon as that is seen.
  absl::Status Set(uint64_t function, const std::string& spec);
  // A request begins, and ends. Of functions without a policy nothing is noted.
  void Begin(uint64_t function);
  void End(uint64_t function);
  // The guest has begun anew: its functions are gone, and others will have their numbers.
  void Clear();

  // When Tick() has something to do; max: when something else happens first.
  Clock::time_point next() const;
  void Tick();

  // As `status` in control.md has it.
  Json Describe() const;

 private:
  enum class Step { kFreeze, kMeasure, kOffload, kRecall, kThaw, kEnd, kLook };
  struct Kept;

  void Go(Kept& kept);
  void Rest(Kept& kept);
  void Serve(Kept& kept);
  bool Ask(Kept& kept, uint32_t state, moult_policy_decision* decision);
  void OffloadNext(Kept& kept);
  void Look(Kept& kept);
  void Cancel(Kept& kept);
  void Sweep();
  template <typename StartOp>
  void Start(Kept& kept, Step step, StartOp start);
  void Done(Kept& kept);
  void Succeeded(Kept& kept, const Json& result);
  void Failed(Kept& kept, const absl::Status& status);
  void Log(int level, const std::string& message) const;

  moult_vm* const vm_;
  const Hooks hooks_;
  std::map<uint64_t, std::unique_ptr<Kept>> kept_;
};

}  // namespace moult::control

#endif  // MOULT_ADAPTERS_CONTROL_KEEPER_H_
