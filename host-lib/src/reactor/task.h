// SPDX-License-Identifier: Apache-2.0
//
// Coroutines that operations are written in: straight code with every wait visible as co_await.
#ifndef MOULT_HOST_REACTOR_TASK_H_
#define MOULT_HOST_REACTOR_TASK_H_

#include <coroutine>
#include <exception>
#include <new>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace moult::host {

// What a coroutine that threw ends with. Nothing of ours throws but allocation.
template <typename T>
T FromException() {
  try {
    throw;
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory");
  } catch (...) {
    return absl::InternalError("exception inside the library");
  }
}

// A coroutine that runs when awaited, by one awaiter, and is destroyed with this object. T is a Status or
// StatusOr. Nested awaits that end at once use no stack, so loops of them are safe at any length; that is why
// this does not rest on symmetric transfer, which needs tail calls that sanitizers take away.
template <typename T>
class [[nodiscard]] Task {
 public:
  struct promise_type {
    std::optional<T> result;
    std::coroutine_handle<> continuation;

    Task get_return_object() { return Task(std::coroutine_handle<promise_type>::from_promise(*this)); }
    std::suspend_always initial_suspend() noexcept { return {}; }
    struct Final {
      bool await_ready() noexcept { return false; }
      void await_suspend(std::coroutine_handle<promise_type> self) noexcept {
        // May destroy `self`: nothing is touched after it.
        if (auto next = self.promise().continuation) next.resume();
      }
      void await_resume() noexcept {}
    };
    Final final_suspend() noexcept { return {}; }
    template <typename U>
    void return_value(U&& value) {
      result.emplace(std::forward<U>(value));
    }
    void unhandled_exception() { result.emplace(FromException<T>()); }
  };

  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Task& operator=(Task&&) = delete;
  ~Task() {
    if (handle_) handle_.destroy();
  }

  bool await_ready() const noexcept { return false; }
  bool await_suspend(std::coroutine_handle<> awaiter) {
    handle_.resume();
    if (handle_.done()) return false;
    handle_.promise().continuation = awaiter;
    return true;
  }
  T await_resume() { return std::move(*handle_.promise().result); }

  // For the outermost one.
  void Start() { handle_.resume(); }
  bool done() const { return handle_.done(); }
  T Take() { return std::move(*handle_.promise().result); }

 private:
  explicit Task(std::coroutine_handle<promise_type> handle) : handle_(handle) {}
  std::coroutine_handle<promise_type> handle_;
};

}  // namespace moult::host

#define MOULT_CO_RETURN_IF_ERROR(expr)                \
  do {                                                \
    absl::Status moult_status_ = (expr);              \
    if (!moult_status_.ok()) co_return moult_status_; \
  } while (0)
#define MOULT_CO_ASSIGN_OR_RETURN(lhs, expr) \
  MOULT_CO_ASSIGN_OR_RETURN_IMPL(MOULT_CONCAT(moult_statusor_, __LINE__), lhs, expr)
#define MOULT_CO_ASSIGN_OR_RETURN_IMPL(statusor, lhs, expr) \
  auto statusor = (expr);                                   \
  if (!statusor.ok()) co_return statusor.status();          \
  lhs = std::move(statusor).value()

#endif  // MOULT_HOST_REACTOR_TASK_H_
