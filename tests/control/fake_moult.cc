// SPDX-License-Identifier: Apache-2.0
#include "fake_moult.h"

#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <list>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "moult/moult.h"
#include "moult/pager.h"
#include "moult/pages.h"
#include "moult/policy.h"

struct moult_store {};
struct moult_policy {};
struct moult_intervals {
  uint32_t count = 0;
};

struct moult_op {
  moult_vm* vm;
  std::string verb;
  uint64_t function;
  moult_op_options options;
  bool needs_disk = false;
  bool disk_asked = false;
  std::atomic<bool> disk_done = false;
  std::atomic<bool> cancelled = false;
  bool freed = false;
  enum moult_op_state state = MOULT_OP_RUNNING;
  moult_code code = MOULT_OK;
  std::string more = {};  // members of the result
  std::string json = {};
  int fd = -1;
};

struct moult_vm {
  moult_vm_options options;
  int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  std::list<moult_op*> ops = {};
};

namespace {

std::mutex mutex;
std::condition_variable changed;
std::vector<std::string> entries;
bool released = false;
int far_end = -1;
int live = 0;
moult_vm* the_vm = nullptr;
std::function<void(const moult_function_view&, moult_policy_decision*)> policy_next;
std::array<uint64_t, MOULT_SEGMENTS> segments{};
uint64_t most_offloaded = UINT64_MAX;
std::string failing_verb;
int failures = 0;
moult_code failing_code = MOULT_OK;
std::atomic<uint64_t> boots = 0;
std::atomic<size_t> unswept = 0;
std::atomic<bool> sweeps_held = false;
thread_local std::string last_error;
thread_local moult_code last_code = MOULT_OK;

void Note(const std::string& entry) {
  std::lock_guard lock(mutex);
  entries.push_back(entry);
  changed.notify_all();
}

int Fail(moult_code code, int error, const std::string& message) {
  last_code = code;
  last_error = message;
  return -error;
}

int StartOp(moult_vm* vm, const char* verb, uint64_t function, const moult_op_options* options, moult_op** op,
            const std::string& more = "") {
  *op = new moult_op{
      .vm = vm, .verb = verb, .function = function, .options = options ? *options : moult_op_options{}};
  vm->ops.push_back(*op);
  {
    std::lock_guard lock(mutex);
    ++live;
  }
  Note(absl::StrCat(verb, " ", function, more));
  eventfd_write(vm->event, 1);
  return 0;
}

void End(moult_op* op, moult_code code, const std::string& message) {
  op->code = code;
  op->state = code == MOULT_OK ? MOULT_OP_SUCCEEDED : MOULT_OP_FAILED;
  op->json = absl::StrCat("{\"op\":\"", op->verb, "\",\"ok\":", code == MOULT_OK ? "true" : "false",
                          ",\"function\":", op->function, code == MOULT_OK ? "" : ",\"detached\":true", op->more, "}");
  last_error = message;
  if (code == MOULT_OK && (op->verb == "tunnel" || op->verb == "logs")) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) std::abort();
    op->fd = pair[0];
    std::lock_guard lock(mutex);
    far_end = pair[1];
    changed.notify_all();
  }
  Note(absl::StrCat("end ", op->verb, " ", moult_code_name(code)));
  op->vm->ops.remove(op);
  if (op->freed) {
    delete op;
    std::lock_guard lock(mutex);
    --live;
  } else if (op->options.done != nullptr) {
    op->options.done(op->options.user, op);
  }
}

void Step(moult_op* op) {
  if (op->cancelled) return End(op, MOULT_CANCELLED, "cancelled");
  if (op->function == moult::fake::kUnknown)
    return End(op, MOULT_NOT_FOUND, absl::StrCat(op->verb, ": no function 404"));
  {
    std::unique_lock lock(mutex);
    if (failing_verb == op->verb && failures-- > 0) {
      lock.unlock();
      return End(op, failing_code, absl::StrCat(op->verb, ": made to fail"));
    }
  }
  if (op->function == moult::fake::kHeld) {
    std::lock_guard lock(mutex);
    if (!released) return;
  }
  if (op->needs_disk && op->vm->options.work != nullptr) {
    if (!op->disk_asked) {
      op->disk_asked = true;
      op->vm->options.work(op->vm->options.user, op);
    }
    if (!op->disk_done) return;
  }
  if (op->verb == "sweep") {
    if (sweeps_held) return;
    unswept = 0;
  }
  End(op, MOULT_OK, "");
}

// The server looks.
void Kick() {
  if (the_vm != nullptr) eventfd_write(the_vm->event, 1);
}

}  // namespace

namespace moult::fake {

void Release() {
  std::lock_guard lock(mutex);
  released = true;
  Kick();
}
std::vector<std::string> Log() {
  std::lock_guard lock(mutex);
  return entries;
}
bool WaitForLog(const std::string& entry) {
  std::unique_lock lock(mutex);
  return changed.wait_for(lock, std::chrono::seconds(10),
                          [&] { return std::find(entries.begin(), entries.end(), entry) != entries.end(); });
}
UniqueFd TakeFarEnd() {
  std::unique_lock lock(mutex);
  changed.wait_for(lock, std::chrono::seconds(10), [] { return far_end >= 0; });
  return UniqueFd(std::exchange(far_end, -1));
}
int LiveOps() {
  std::lock_guard lock(mutex);
  return live;
}
void SetPolicy(std::function<void(const moult_function_view&, moult_policy_decision*)> next) {
  std::lock_guard lock(mutex);
  policy_next = std::move(next);
}
void SetSegments(std::array<uint64_t, MOULT_SEGMENTS> bytes) {
  std::lock_guard lock(mutex);
  segments = bytes;
}
void LimitOffload(uint64_t bytes) {
  std::lock_guard lock(mutex);
  most_offloaded = bytes;
}
void FailNext(const std::string& verb, moult_code code, int times) {
  std::lock_guard lock(mutex);
  failing_verb = verb;
  failures = times;
  failing_code = code;
}
void BootAgain() {
  ++boots;
  Kick();
}
void SetUnswept(size_t functions) {
  unswept = functions;
  Kick();
}
void HoldSweeps(bool hold) {
  sweeps_held = hold;
  Kick();
}
void Reset() {
  std::lock_guard lock(mutex);
  boots = 0;
  unswept = 0;
  sweeps_held = false;
  policy_next = nullptr;
  segments = {};
  most_offloaded = UINT64_MAX;
  failing_verb.clear();
  entries.clear();
  released = false;
  live = 0;
}

}  // namespace moult::fake

extern "C" {

const char* moult_version(void) { return "0.0.fake"; }
const char* moult_last_error(void) { return last_error.c_str(); }
moult_code moult_last_error_code(void) { return last_code; }
const char* moult_code_name(moult_code code) {
  switch (code) {
    case MOULT_OK:
      return "OK";
    case MOULT_CANCELLED:
      return "CANCELLED";
    case MOULT_INVALID_ARGUMENT:
      return "INVALID_ARGUMENT";
    case MOULT_NOT_FOUND:
      return "NOT_FOUND";
    case MOULT_FAILED_PRECONDITION:
      return "FAILED_PRECONDITION";
    case MOULT_UNIMPLEMENTED:
      return "UNIMPLEMENTED";
    default:
      return "UNKNOWN";
  }
}
void moult_free(char* string) { free(string); }

int moult_store_open(const char*, const moult_store_options*, moult_store** store) {
  *store = new moult_store;
  return 0;
}
void moult_store_close(moult_store* store) { delete store; }
int moult_store_list_json(moult_store*, char** json) {
  *json = strdup("[{\"name\":\"t\"}]");
  return 0;
}
int moult_store_show_json(moult_store*, const char* name, char** json) {
  if (std::string(name) != "t")
    return Fail(MOULT_NOT_FOUND, ENOENT, absl::StrCat("template ", name, ": is not there"));
  *json = strdup("{\"name\":\"t\"}");
  return 0;
}
int moult_store_verify(moult_store*, const char* name) {
  return std::string(name) == "t" ? 0 : Fail(MOULT_NOT_FOUND, ENOENT, "is not there");
}
int moult_store_remove(moult_store*, const char*) { return 0; }

int moult_vm_create(const moult_vm_options* options, moult_vm** vm) {
  *vm = new moult_vm{.options = *options};
  the_vm = *vm;
  return 0;
}
void moult_vm_close(moult_vm* vm) {
  the_vm = nullptr;
  if (vm == nullptr) return;
  close(vm->event);
  for (const moult_op* op : vm->ops) {
    if (op->freed) delete op;  // while it ran
  }
  delete vm;
}
int moult_vm_fd(const moult_vm* vm) { return vm->event; }
int moult_vm_process(moult_vm* vm) {
  eventfd_t count;
  eventfd_read(vm->event, &count);
  const std::vector<moult_op*> ops(vm->ops.begin(), vm->ops.end());
  for (moult_op* op : ops) Step(op);
  return static_cast<int>(vm->ops.size());
}
int moult_vm_info_json(moult_vm*, char** json) {
  *json = strdup("{\"name\":\"fake\"}");
  return 0;
}
int moult_vm_guest_reset(moult_vm*) { return 0; }
uint64_t moult_vm_boots(const moult_vm*) { return boots; }
size_t moult_vm_unswept(const moult_vm*) { return unswept; }

#define FAKE_PLAIN(name, verb)                                             \
  int name(moult_vm* vm, const moult_op_options* options, moult_op** op) { \
    return StartOp(vm, verb, 0, options, op);                              \
  }
FAKE_PLAIN(moult_vm_hello, "hello")
FAKE_PLAIN(moult_vm_doctor, "doctor")
FAKE_PLAIN(moult_vm_sweep, "sweep")
int moult_vm_list(moult_vm* vm, const moult_op_options* options, moult_op** op) {
  const int result = StartOp(vm, "list", 0, options, op);
  (*op)->more = R"(,"functions":[{"id":7,"name":"lucky","state":"running"},{"id":8,"state":"ended"},{"id":9,"state":"running"},{"id":1000,"state":"running"}])";
  return result;
}
#define FAKE_ON_FUNCTION(name, verb)                                                          \
  int name(moult_vm* vm, uint64_t function, const moult_op_options* options, moult_op** op) { \
    return StartOp(vm, verb, function, options, op);                                          \
  }
FAKE_ON_FUNCTION(moult_vm_freeze, "freeze")
FAKE_ON_FUNCTION(moult_vm_thaw, "thaw")
FAKE_ON_FUNCTION(moult_vm_kill, "kill")
FAKE_ON_FUNCTION(moult_vm_forget, "forget")
FAKE_ON_FUNCTION(moult_vm_detach, "detach")
FAKE_ON_FUNCTION(moult_vm_tunnel, "tunnel")

int moult_vm_pages(moult_vm* vm, const moult_pages_options* pages, const moult_op_options* options, moult_op** op) {
  const int result = StartOp(vm, "pages", pages->function, options, op, absl::StrCat(" flags=", pages->flags));
  std::lock_guard lock(mutex);
  const char* const names[] = {"runtime", "init", "exec"};
  std::string parts;
  for (size_t i = 0; i < MOULT_SEGMENTS; ++i)
    absl::StrAppend(&parts, i > 0 ? "," : "", "\"", names[i], "\":{\"bytes\":", segments[i], ",\"offloaded_bytes\":0}");
  (*op)->more = absl::StrCat(",\"functions\":[{\"id\":", pages->function, ",\"segments\":{", parts, "}}]");
  return result;
}
int moult_vm_why(moult_vm* vm, uint64_t gpa, const void* hva, const moult_op_options* options, moult_op** op) {
  return StartOp(vm, "why", 0, options, op, absl::StrCat(" gpa=", gpa, " hva=", reinterpret_cast<uint64_t>(hva)));
}
int moult_vm_offload(moult_vm* vm, const moult_offload_options* offload, const moult_op_options* options,
                     moult_op** op) {
  const std::string part =
      offload->segments == 0 ? "" : absl::StrCat(" segments=", offload->segments, " most=", offload->most_bytes);
  const int result = StartOp(vm, "offload", offload->function, options, op, absl::StrCat(" flags=", offload->flags, part));
  std::lock_guard lock(mutex);
  (*op)->more = absl::StrCat(",\"offloaded_bytes\":", std::min(offload->most_bytes, most_offloaded), ",\"zero_bytes\":0");
  return result;
}
int moult_vm_recall(moult_vm* vm, const moult_recall_options* recall, const moult_op_options* options,
                    moult_op** op) {
  return StartOp(vm, "recall", recall->function, options, op, absl::StrCat(" prefetch=", recall->prefetch));
}
int moult_vm_recall_all(moult_vm* vm, const moult_op_options* options, moult_op** op) {
  return StartOp(vm, "recall_all", 0, options, op, "");
}
int moult_vm_run(moult_vm* vm, const char* json, const moult_op_options* options, moult_op** op) {
  return StartOp(vm, "run", 0, options, op, absl::StrCat(" ", json));
}
int moult_vm_capture(moult_vm* vm, const moult_capture_options* capture, const moult_op_options* options,
                     moult_op** op) {
  const int result =
      StartOp(vm, "capture", capture->function, options, op,
              absl::StrCat(" ", capture->name, " end=", capture->end, " pages=", capture->pages));
  (*op)->needs_disk = true;
  return result;
}
int moult_vm_fork(moult_vm* vm, const moult_fork_options* fork, const moult_op_options* options, moult_op** op) {
  const int result = StartOp(vm, "fork", fork->function, options, op,
                             absl::StrCat(" ", fork->name, " to=", fork->to, " flags=", fork->flags, " pages=", fork->pages));
  (*op)->needs_disk = true;
  return result;
}
int moult_vm_attach(moult_vm* vm, const moult_attach_options* attach, const moult_op_options* options,
                    moult_op** op) {
  const std::string from = attach->from != nullptr ? absl::StrCat(" from=", attach->from) : "";
  const std::string digest = attach->digest != nullptr ? absl::StrCat(" digest=", attach->digest) : "";
  return StartOp(vm, "attach", 0, options, op, absl::StrCat(" ", attach->name, " pages=", attach->pages, from, digest));
}
int moult_vm_repurpose(moult_vm* vm, uint64_t function, const moult_attach_options* attach,
                       const moult_op_options* options, moult_op** op) {
  return StartOp(vm, "repurpose", function, options, op, absl::StrCat(" ", attach->name));
}
int moult_vm_logs(moult_vm* vm, const moult_logs_options* logs, const moult_op_options* options,
                  moult_op** op) {
  return StartOp(vm, "logs", logs->function, options, op, absl::StrCat(" follow=", logs->follow));
}

int moult_policy_open(const char* spec, moult_policy** policy) {
  if (std::string(spec) != "scripted") return Fail(MOULT_INVALID_ARGUMENT, EINVAL, absl::StrCat("there is no policy ", spec));
  *policy = new moult_policy;
  return 0;
}
void moult_policy_close(moult_policy* policy) { delete policy; }
int moult_policy_next(moult_policy*, const moult_function_view* view, moult_policy_decision* decision) {
  decision->wake_after_us = UINT64_MAX;
  std::lock_guard lock(mutex);
  if (policy_next) policy_next(*view, decision);
  return 0;
}
int moult_intervals_create(moult_intervals** intervals) {
  *intervals = new moult_intervals;
  return 0;
}
void moult_intervals_free(moult_intervals* intervals) { delete intervals; }
void moult_intervals_add(moult_intervals* intervals, uint64_t) { ++intervals->count; }
uint32_t moult_intervals_count(const moult_intervals* intervals) { return intervals->count; }

enum moult_op_state moult_op_state(const moult_op* op) { return op->state; }
int moult_op_result(const moult_op* op) {
  if (op->state == MOULT_OP_RUNNING) return -EINPROGRESS;
  if (op->code == MOULT_OK) return 0;
  return Fail(op->code, EIO, absl::StrCat(op->verb, ": ", moult_code_name(op->code)));
}
const char* moult_op_result_json(const moult_op* op) { return op->json.c_str(); }
int moult_op_take_fd(moult_op* op) { return op->fd < 0 ? -ENOENT : std::exchange(op->fd, -1); }
int moult_op_wait(moult_op* op, int) {
  while (op->state == MOULT_OP_RUNNING) {
    if (moult_vm_process(op->vm) < 0) return -EIO;
  }
  return moult_op_result(op);
}
int moult_op_run(moult_op* op) {
  Note("disk work");
  op->disk_done = true;
  eventfd_write(op->vm->event, 1);
  return 0;
}
void moult_op_cancel(moult_op* op) {
  Note(absl::StrCat("cancel ", op->verb));
  op->cancelled = true;
  eventfd_write(op->vm->event, 1);
}
void moult_op_free(moult_op* op) {
  if (op == nullptr) return;
  if (op->state == MOULT_OP_RUNNING) {
    op->freed = true;
    return moult_op_cancel(op);
  }
  if (op->fd >= 0) close(op->fd);
  delete op;
  std::lock_guard lock(mutex);
  --live;
}

}  // extern "C"
