/* SPDX-License-Identifier: Apache-2.0
 *
 * Offload and recall: an idle function's pages leave guest RAM, in place, and come back as they are touched
 *
 * Needs a pool (moult_vm_options), userfaultfd with faults of the kernel's own (root, or vm.unprivileged_userfaultfd=1, or
 * /dev/userfaultfd), and threads in moult_pager_run() for as long as anything is out. No page is trusted to be whose the
 * agent says: whoever touches one gets what it was, or, where the pool does not give it, what moult_pager_resolve() says
 * (of a function that has ended: zeros). Not seen are accesses that do not go through this process's page
 * tables: other processes that map the guest's memory and let devices write to user pages (some vhost-user back ends),
 * devices that have pinned it.
 *
 * Errors, threads, blocking and structures are as moult.h says, which has the operations too. Everything here: since 0.1.
 */
#ifndef MOULT_PAGER_H_
#define MOULT_PAGER_H_

#include <moult/moult.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Serves faults, of pages that are out and of templates that lie elsewhere, and fetches ahead, until moult_pager_stop().
 * Blocks. Several threads may be in it, none of which may ever wait for something that a vCPU holds. A file: pool that is no
 * tmpfs needs two: one reads and writes in the stead of the other, which serves faults while that pool does not answer.
 * With three the beginning of an attach from such a pool, and a fork's push to one, end in time as well.
 * All must have returned, or have ended, before moult_vm_close(); one that such a pool keeps returns when it answers.
 * Errors: FAILED_PRECONDITION (neither pool nor window). */
MOULT_API int moult_pager_run(struct moult_vm *vm) MOULT_CHECKED;

/* How many threads are in it, and live. What one has begun that ends without returning (pthread_exit, a filter of system calls
 * that kills a thread) another does anew within a second, or the next one that comes: start it. Any thread.
 * Errors: FAILED_PRECONDITION as above. */
MOULT_API int moult_pager_threads(struct moult_vm *vm) MOULT_CHECKED;

/* Lets them return. Any thread. Bring everything back first (moult_vm_recall_all()), unless the guest has ended: what is
 * still out is gone for good when the vm is closed. */
MOULT_API int moult_pager_stop(struct moult_vm *vm) MOULT_CHECKED;

enum moult_resolution {
  MOULT_RESOLVE_ZERO = 0,   /* zeros instead: only for a function that has been killed */
  MOULT_RESOLVE_POISON = 1, /* a memory error for who touches it (Linux 6.6; under KVM a machine check in the guest) */
  MOULT_RESOLVE_RETRY = 2   /* the pool is well again */
};

/* What becomes of all lost pages of a function (page_lost). Any thread. Errors: NOT_FOUND: it has none; UNIMPLEMENTED. */
MOULT_API int moult_pager_resolve(struct moult_vm *vm, uint64_t function, enum moult_resolution resolution) MOULT_CHECKED;

struct moult_offload_options {
  size_t size;
  uint64_t function;
  uint32_t flags;      /* MOULT_OFFLOAD_* */
  uint32_t segments;   /* bits 1 << enum moult_segment of moult/policy.h: only these; 0: all there is */
  uint64_t most_bytes; /* no more than so many, a multiple of 4096, pages without MOULT_PAGE_ACCESSED first; 0: all */
};
#define MOULT_OFFLOAD_COLD_ONLY 1u /* only pages without MOULT_PAGE_ACCESSED, see moult/pages.h */
#define MOULT_OFFLOAD_RUN_ON 2u    /* the function runs on; else it is frozen until moult_vm_recall() or moult_vm_thaw() */

/* Freezes a function and moves its private and shared pages (MOULT_PAGE_USER_PRIVATE, MOULT_PAGE_USER_SHARED) to the pool;
 * pages of zeros take no room there. On failure it is as before, running or frozen, if the agent can be reached. Detach
 * gives the room back without fetching anything; capture brings all back first. A recall with MOULT_PREFETCH_ALL that has let
 * the function run and fetches the rest is stopped by it, and ends with ABORTED.
 * Result: {"offloaded_bytes", "zero_bytes", "stayed_bytes": touched meanwhile, "already_bytes", "pool_used_bytes",
 * "access": as moult_vm_pages() has it}.
 * Errors: FAILED_PRECONDITION (no pool, no thread in moult_pager_run() or too few, userfaultfd; another offload of it goes
 * on, or a recall that has not let it run yet), RESOURCE_EXHAUSTED (pool full; no descriptor, or no mappings left of vm.max_map_count), UNAVAILABLE (the pool
 * does not answer). */
MOULT_API int moult_vm_offload(struct moult_vm *vm, const struct moult_offload_options *offload,
                               const struct moult_op_options *options, struct moult_op **op) MOULT_CHECKED;

enum moult_prefetch {
  MOULT_PREFETCH_WORKING_SET = 0, /* what was touched in the first second after earlier recalls */
  MOULT_PREFETCH_ALL = 1,         /* that first, and the rest once it runs; the operation ends when all is there */
  MOULT_PREFETCH_NONE = 2
};

struct moult_recall_options {
  size_t size;
  uint64_t function;
  uint32_t prefetch; /* enum moult_prefetch */
  uint32_t reserved;
};

/* Thaws a function, its pages being fetched before and behind. Result: {"prefetched_bytes", "left_bytes": still in the
 * pool}. Errors: DATA_LOSS, DEADLINE_EXCEEDED: the pool does not give a page; the function stays frozen, or, with
 * MOULT_PREFETCH_ALL, may run already. ABORTED: with MOULT_PREFETCH_ALL, it ran, and an offload of it began. */
MOULT_API int moult_vm_recall(struct moult_vm *vm, const struct moult_recall_options *recall,
                              const struct moult_op_options *options, struct moult_op **op) MOULT_CHECKED;

/* How many functions there are that have ended, as far as the library knows, and still have room in the pool. Not 0: a
 * moult_vm_sweep() is due. It is looked at after every moult_vm_process(), and costs nothing. */
MOULT_API size_t moult_vm_unswept(const struct moult_vm *vm);

/* Gives that room back: what the guest has freed is dropped, the rest, which the kernel or a neighbour may have, is fetched,
 * in small steps between which other operations have their turn. A function whose pages are being moved is left for the next
 * time. Result: {"swept": [functions]}. Errors: that of the first function whose room is still held, the others' being given
 * back: DEADLINE_EXCEEDED (the pool does not give a page within fault_timeout_ms), DATA_LOSS; or of all, since nobody says what
 * is free: UNAVAILABLE, DEADLINE_EXCEEDED (the agent). Try it again later. Only one at a time makes sense. */
MOULT_API int moult_vm_sweep(struct moult_vm *vm, const struct moult_op_options *options, struct moult_op **op) MOULT_CHECKED;

/* Brings all pages of all functions back, and thaws none. Result: {"recalled_bytes", zeros among them}. Errors: DATA_LOSS,
 * DEADLINE_EXCEEDED: the pool does not give a page; all that it gives is back. */
MOULT_API int moult_vm_recall_all(struct moult_vm *vm, const struct moult_op_options *options,
                                  struct moult_op **op) MOULT_CHECKED;

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* MOULT_PAGER_H_ */
