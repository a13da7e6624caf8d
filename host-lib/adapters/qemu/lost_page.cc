// SPDX-License-Identifier: Apache-2.0
#include "lost_page.h"

#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "control/message.h"
#include "control/methods.h"
#include "moult/pager.h"

namespace moult::qemu {
namespace {

// For the signal to get from the agent to every thread of the function.
constexpr uint32_t kKillMs = 1000;
constexpr uint32_t kHeardWithinMs = 5000;

struct Ending {
  moult_vm* vm;
  uint64_t function;
  Log* log;

  void Resolve(moult_resolution resolution) const {
    if (moult_pager_resolve(vm, function, resolution) >= 0 || moult_last_error_code() == MOULT_NOT_FOUND) return;
    // A guest that waits for ever is worse than none.
    log->Write(0, absl::StrCat("lost pages of function ", function, ": ", moult_last_error(), "; the VM is ended"));
    _exit(EXIT_FAILURE);  // no clean end: that would wait for the CPU
  }
  bool HasEnded(const control::Json& list) const {
    for (const control::Json& one : list.value("functions", control::Json::array())) {
      if (one.value("id", uint64_t{0}) == function) return one.value("state", "") == "ended";
    }
    return true;
  }
  // A vCPU that waits at one of them gets a SIGBUS, which ends QEMU: said before that.
  void Poison(absl::string_view why) const {
    log->Write(0, absl::StrCat("lost pages of function ", function, ": ", why, "; they are poisoned, by which the VM ends"));
    Resolve(MOULT_RESOLVE_POISON);
  }
};

moult_op_options Options(Ending* ending, uint32_t timeout_ms, void (*done)(void*, moult_op*)) {
  moult_op_options options = MOULT_INIT(options);
  options.timeout_ms = timeout_ms;
  options.user = ending;
  options.done = done;
  return options;
}

void Heard(void* user, moult_op* op) {
  const std::unique_ptr<Ending> ending(static_cast<Ending*>(user));
  const bool heard = moult_op_result(op) == 0;
  moult_op_free(op);
  if (heard) return ending->Resolve(MOULT_RESOLVE_ZERO);
  ending->Poison(absl::StrCat("the guest's agent, which is to end it, is not heard within ", kHeardWithinMs, " ms"));
}

// An agent that refuses to end it: because it has ended by itself, and others have its page frames?
void Listed(void* user, moult_op* op) {
  const std::unique_ptr<Ending> ending(static_cast<Ending*>(user));
  control::Json result;
  const absl::Status listed = control::Outcome(op, &result);
  moult_op_free(op);
  if (listed.ok() && ending->HasEnded(result)) return ending->Resolve(MOULT_RESOLVE_ZERO);
  ending->Poison("the guest's agent does not end it");
}

// Its time is up, as a rule: the function cannot end yet. An agent that refuses leaves it alive.
void Told(void* user, moult_op* op) {
  std::unique_ptr<Ending> ending(static_cast<Ending*>(user));
  const bool told = moult_op_result(op) == 0 || moult_last_error_code() == MOULT_DEADLINE_EXCEEDED;
  moult_op_free(op);
  const moult_op_options options = Options(ending.get(), kHeardWithinMs, Heard);
  moult_op* hello = nullptr;
  // Verbs that have no work for another thread, which could still have it when it is freed.
  if (!told) {
    const moult_op_options look = Options(ending.get(), kHeardWithinMs, Listed);
    moult_op* list = nullptr;
    if (moult_vm_list(ending->vm, &look, &list) < 0) return ending->Poison(moult_last_error());
    (void)ending.release();
    return;
  }
  if (moult_vm_hello(ending->vm, &options, &hello) < 0) return ending->Poison(moult_last_error());
  (void)ending.release();
}

}  // namespace

void EndFunctionOfLostPage(moult_vm* vm, uint64_t function, Log* log) {
  auto ending = std::make_unique<Ending>(Ending{vm, function, log});
  const moult_op_options options = Options(ending.get(), kKillMs, Told);
  moult_op* kill = nullptr;
  if (moult_vm_kill(vm, function, &options, &kill) < 0) return ending->Poison(moult_last_error());
  (void)ending.release();
}

}  // namespace moult::qemu
