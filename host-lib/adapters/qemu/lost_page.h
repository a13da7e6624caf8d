// SPDX-License-Identifier: Apache-2.0
//
// What becomes of a function one of whose pages the pool has lost.
#ifndef MOULT_ADAPTERS_QEMU_LOST_PAGE_H_
#define MOULT_ADAPTERS_QEMU_LOST_PAGE_H_

#include <cstdint>

#include "log.h"
#include "moult/moult.h"

namespace moult::qemu {

// Who touched the page waits for it: a CPU of the guest's. The function is told to end, which it cannot while one of its
// threads waits; once the agent has been heard after that, its signal is there, so that the thread runs no instruction of
// the function's after the CPU's next interrupt, and gets zeros. An agent that is not heard in time (the guest had but this
// CPU) leaves a memory error: under KVM the guest's kernel ends who meets it, under emulation QEMU ends.
//
// On the vm's thread; `log` outlives the vm.
void EndFunctionOfLostPage(moult_vm* vm, uint64_t function, Log* log);

}  // namespace moult::qemu

#endif  // MOULT_ADAPTERS_QEMU_LOST_PAGE_H_
