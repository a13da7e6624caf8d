// SPDX-License-Identifier: Apache-2.0
//
// Stacks for a VMM that is at vm.max_map_count: QEMU ends itself when it gets none for a coroutine or a worker of its block
// layer, whichever of Moult's calls is tried at that time. They are mapped beforehand, as one mapping without guard pages, and
// served where the kernel has no mapping left.
#include <dlfcn.h>
#include <pthread.h>
#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <utility>

namespace {

constexpr size_t kStacks = 512;
constexpr size_t kGuardBytes = 4096;
constexpr size_t kStackBytes = (1 << 20) + kGuardBytes;  // a coroutine's; a worker needs less

std::byte* stacks = nullptr;
std::atomic<bool> is_taken[kStacks];
thread_local const void* last_mapped = nullptr;  // of stacks, by this thread

template <typename Function>
Function* Next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

__attribute__((constructor(101))) void MapStacks() {
  void* const at = mmap(nullptr, kStacks * kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at != MAP_FAILED) stacks = static_cast<std::byte*>(at);
}

std::byte* TakeStack() {
  for (size_t i = 0; stacks != nullptr && i < kStacks; ++i) {
    if (!is_taken[i].exchange(true)) return stacks + i * kStackBytes;
  }
  return nullptr;
}

bool IsSpare(const void* at) {
  return stacks != nullptr && at >= stacks && at < stacks + kStacks * kStackBytes;
}

bool GiveBack(void* at, size_t bytes) {
  if (!IsSpare(at) || bytes > kStackBytes) return false;
  is_taken[static_cast<size_t>(static_cast<std::byte*>(at) - stacks) / kStackBytes] = false;
  return true;
}

}  // namespace

extern "C" {

void* mmap(void* at, size_t bytes, int protection, int flags, int fd, off_t offset) noexcept {
  static auto* const next = Next<decltype(mmap)>("mmap");
  void* const mapped = next(at, bytes, protection, flags, fd, offset);
  // QEMU 7.2 says that it is a stack; later ones are known by the size, of memory that is plain and anywhere.
  const bool is_plain = at == nullptr && fd == -1 && protection == (PROT_READ | PROT_WRITE) && (flags & ~MAP_STACK) == (MAP_PRIVATE | MAP_ANONYMOUS);
  if (!is_plain || bytes > kStackBytes || ((flags & MAP_STACK) == 0 && bytes != kStackBytes)) return mapped;
  last_mapped = mapped;
  if (mapped != MAP_FAILED || errno != ENOMEM) return mapped;
  std::byte* const stack = TakeStack();
  return stack != nullptr ? stack : MAP_FAILED;
}

// The last mapping may have been for the stack, and its guard page takes one more: it goes without, as the spare ones do.
int mprotect(void* at, size_t bytes, int protection) noexcept {
  static auto* const next = Next<decltype(mprotect)>("mprotect");
  if (IsSpare(at) && bytes == kGuardBytes) return 0;
  const int result = next(at, bytes, protection);
  const bool is_guard = at == std::exchange(last_mapped, nullptr) && bytes == kGuardBytes;
  return result != 0 && errno == ENOMEM && is_guard ? 0 : result;
}

int munmap(void* at, size_t bytes) noexcept {
  static auto* const next = Next<decltype(munmap)>("munmap");
  return GiveBack(at, bytes) ? 0 : next(at, bytes);
}

// The stack of such a thread stays taken: nobody is told when the thread is done with it.
int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*run)(void*), void* argument) noexcept {
  static auto* const next = Next<decltype(pthread_create)>("pthread_create");
  const int error = next(thread, attributes, run, argument);
  std::byte* const stack = error == EAGAIN ? TakeStack() : nullptr;
  if (stack == nullptr) return error;
  pthread_attr_t own;
  int detached = PTHREAD_CREATE_JOINABLE;
  if (attributes != nullptr) (void)pthread_attr_getdetachstate(attributes, &detached);
  pthread_attr_init(&own);
  (void)pthread_attr_setdetachstate(&own, detached);
  (void)pthread_attr_setstack(&own, stack, kStackBytes);
  const int with_stack = next(thread, &own, run, argument);
  pthread_attr_destroy(&own);
  return with_stack;
}

}  // extern "C"
