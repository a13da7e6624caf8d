// SPDX-License-Identifier: Apache-2.0
//
// Memory that the agent gives back is zeros first: images of functions pass through it, with what waits in their
// pipes and sockets, and neither the agent's next allocation nor the kernel's free pages are to keep that.
#include <malloc.h>

#include <cstdlib>
#include <cstring>
#include <new>

#include "image/sanitizers.h"

#if !defined(MOULT_ADDRESS_SANITIZER) && !defined(MOULT_THREAD_SANITIZER)

namespace {

void WipeAndFree(void* memory) noexcept {
  if (memory == nullptr) return;
  explicit_bzero(memory, malloc_usable_size(memory));
  free(memory);
}

}  // namespace

// The library's operator new takes from malloc or aligned_alloc, whose memory free() takes back.
void operator delete(void* memory) noexcept { WipeAndFree(memory); }
void operator delete[](void* memory) noexcept { WipeAndFree(memory); }
void operator delete(void* memory, std::size_t) noexcept { WipeAndFree(memory); }
void operator delete[](void* memory, std::size_t) noexcept { WipeAndFree(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { WipeAndFree(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { WipeAndFree(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { WipeAndFree(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { WipeAndFree(memory); }

#endif
