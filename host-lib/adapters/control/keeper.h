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
#include <vector>

#include "message.h"
#include "moult/policy.h"

namespace moult::control {

// One operation of a function at a time. A request waits for none of them: what is under way for an idle function is
// cancelled, and the request's bytes wait in the function's socket until it runs. What is done by hand comes first: a
// function that is held is left alone, and looked at anew when it is let go. Threads: the vm's.
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

  // `spec` as moult_policy_open() has it. A function with a new policy counts as idle from now on, if no request is under
  // way. Errors: those of moult_policy_open(). A function that is not there is forgotten as soon as that is seen.
  absl::Status Set(uint64_t function, const std::string& spec);
  // It is let run, and then left alone. `left` is called when that is so, perhaps at once. Errors: kNotFound: it has no
  // policy; kAborted: it was given another one meanwhile; else why it could not be let run: it is left as it is.
  using Left = std::function<void(const absl::Status&)>;
  void Leave(uint64_t function, Left left);
  // From now on nothing is begun for the function, whether it has a policy or gets one; each Hold() has its Release().
  // What is under way goes on to its end, or to the next Interrupt().
  void Hold(uint64_t function);
  void Release(uint64_t function);
  bool Busy(uint64_t function) const;
  void Interrupt(uint64_t function);
  // A request begins, and ends; each Begin() has its End(); 0: of no function. Counted for functions without a policy, too: they may get one.
  void Begin(uint64_t function);
  void End(uint64_t function);
  // The guest has begun anew: its functions are gone, and others will have their numbers. Requests end by themselves.
  void Clear();

  // When Tick() has something to do; max: when something else happens first.
  Clock::time_point next() const;
  void Tick();

  // As `policies` in control.md has it, and `keeper`.
  Json Describe() const;
  Json Totals() const;

 private:
  enum class Step { kFreeze, kMeasure, kOffload, kRecall, kThaw, kEnd, kLook };
  struct Kept;
  // What was carried out, by kinds of it. Never falls.
  struct Counts {
    uint64_t freezes = 0, offloads = 0, offloaded_bytes = 0, recalls = 0, thaws = 0, ends = 0, failures = 0;
    Json ToJson() const;
  };

  size_t Requests(uint64_t function) const;  // under way
  bool IsAsked(const Kept& kept) const;
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
  void Count(Kept& kept, uint64_t Counts::*what, uint64_t by = 1);
  void Forget(uint64_t function, const absl::Status& status);
  void Log(int level, const std::string& message) const;

  moult_vm* const vm_;
  const Hooks hooks_;
  std::map<uint64_t, std::unique_ptr<Kept>> kept_;
  std::map<uint64_t, size_t> held_;
  std::map<uint64_t, size_t> requests_;
  Counts totals_;
};

}  // namespace moult::control

#endif  // MOULT_ADAPTERS_CONTROL_KEEPER_H_
