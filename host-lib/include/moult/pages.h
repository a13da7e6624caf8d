/* SPDX-License-Identifier: Apache-2.0
 *
 * The page ledger: whose is every page of the guest's RAM?
 *
 * It is what the guest says, checked for sense only. Nothing is stopped for it: of a function that is frozen it is exact,
 * of all else a sample (MOULT_PAGE_SAMPLE).
 *
 * Errors, threads, blocking and structures are as moult.h says, which has the operations too. Everything here: since 0.1.
 */
#ifndef MOULT_PAGES_H_
#define MOULT_PAGES_H_

#include <moult/moult.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Classes are disjoint; all but MOULT_PAGE_TEMPLATE add up to the VM's RAM. */
enum moult_page_class {
  MOULT_PAGE_USER_PRIVATE = 0, /* anonymous, or written by the function in a private mapping; it alone maps it */
  MOULT_PAGE_USER_SHARED = 1,  /* of tmpfs or shared memory, or shared by fork; all who have it are one function's */
  MOULT_PAGE_USER_FILE = 2,    /* page cache that a function maps: file and offset name the content */
  MOULT_PAGE_TEMPLATE = 3,     /* a window's, as a function sees it; outside of RAM */
  MOULT_PAGE_SYSTEM = 4,       /* the kernel's and other processes' */
  MOULT_PAGE_CACHE = 5,
  MOULT_PAGE_FREE = 6,
  MOULT_PAGE_RESERVED = 7 /* without a use for the kernel */
};

/* What the kernel says that it is. */
enum moult_page_kind {
  MOULT_KIND_NONE = 0,
  MOULT_KIND_ANONYMOUS = 1,
  MOULT_KIND_FILE_COPY = 2, /* private copy of a file's page */
  MOULT_KIND_SHMEM = 3,
  MOULT_KIND_FILE = 4,
  MOULT_KIND_WINDOW = 5,
  MOULT_KIND_SLAB = 6,
  MOULT_KIND_PAGE_TABLE = 7,
  MOULT_KIND_KERNEL = 8, /* the kernel does not say for what: large kmalloc, vmalloc, stacks, per-CPU free lists */
  MOULT_KIND_KERNEL_IMAGE = 9,
  MOULT_KIND_BOOT = 10,
  MOULT_KIND_SWAP_CACHE = 11,
  MOULT_KIND_HUGE_TLB = 12,
  MOULT_KIND_BALLOON = 13,
  MOULT_KIND_BROKEN = 14,
  MOULT_KIND_HOLE = 15
};

/* moult_page_run.flags */
#define MOULT_PAGE_DIRTY 1u
/* Of pages that a function maps: touched since it was ready, attached, or last thawed (moult_vm_thaw(), moult_vm_recall(),
 * an offload that lets it run on), or since all of it was out, as far as "access" in the JSON says that it is known:
 *   page     each page by itself, by its bit in the page tables; takes the guest's driver
 *   mapping  that any page of its mapping was. The kernel tells no more without the driver
 *   mark     not since when, but whether the kernel saw it as it looked for memory; agents that know no better
 * The kernel may clear the bits when it looks for memory, and what a CPU has in its TLB it may use without setting one:
 * cold is a good guess, no promise. Of other pages it is the kernel's mark. */
#define MOULT_PAGE_ACCESSED 2u
#define MOULT_PAGE_LOCKED 4u
#define MOULT_PAGE_WRITEBACK 8u
#define MOULT_PAGE_HUGE 16u
#define MOULT_PAGE_KSM 32u
#define MOULT_PAGE_OTHERS 64u  /* others map it, too */
#define MOULT_PAGE_SAMPLE 128u /* may have changed while it was looked at */
#define MOULT_PAGE_OFFLOADED 256u /* of user pages: its content is in the pool; the host's word, not the guest's */

/* Pages that follow each other and are alike. */
struct moult_page_run {
  uint64_t gpa;
  uint64_t length;      /* bytes */
  uint64_t va;          /* of the first page in process pid; 0: mapped by none */
  uint64_t file_offset; /* in file, bytes */
  uint64_t function;    /* whose it is; of MOULT_PAGE_SYSTEM: on whose behalf the kernel has it; 0: nobody's */
  uint32_t pid;         /* of one process that maps it, as the guest's initial pid namespace has it; 0: none */
  uint32_t file;        /* for moult_op_page_file(); 0: none */
  uint8_t page_class;   /* enum moult_page_class */
  uint8_t kind;         /* enum moult_page_kind */
  uint8_t prot;         /* of the mapping: 1 read, 2 write, 4 execute */
  uint8_t segment;      /* 0 not known, 1 runtime, 2 init, 3 exec */
  uint32_t flags;       /* MOULT_PAGE_* */
};

struct moult_pages_options {
  size_t size;
  uint64_t function; /* only what it has, which is quicker; 0: all of the guest's RAM */
  uint32_t flags;    /* MOULT_PAGES_* */
  uint32_t reserved;
};
#define MOULT_PAGES_JSON_RUNS 1u /* the runs are in the JSON, too */

/* Asks for the ledger. Result: {"ram_bytes", "classes": {"user_private": bytes, ...}, "template_bytes", "kinds": {...},
 * "functions": [{"id", "name", "state", "access", "exact", "user_private", "user_shared", "user_file", "template", "on_behalf", "offloaded",
 *  "segments": {"runtime": {"bytes", "offloaded_bytes"}, "init", "exec"}}],
 * "processes": [{"pid", "comm", "function"}], "files": [...]}; with MOULT_PAGES_JSON_RUNS also "run_fields", the names of
 * the numbers of each of "runs", and "class_names", "kind_names", "segment_names", "flag_names" (by bit).
 * Fails with UNIMPLEMENTED when the agent has none. */
MOULT_API int moult_vm_pages(struct moult_vm *vm, const struct moult_pages_options *pages,
                             const struct moult_op_options *options, struct moult_op **op) MOULT_CHECKED;

/* Who has the page at guest-physical address `gpa`, or, when `hva` is not NULL, at that address of this process? Result:
 * {"gpa", "hva", "run_gpa", "length", "class", "kind", "function", "function_name", "pid", "comm", "va", "prot", "path",
 * "file_offset", "segment", "flags", "reason": one sentence}; what there is not is left out. Errors: OUT_OF_RANGE, NOT_FOUND. */
MOULT_API int moult_vm_why(struct moult_vm *vm, uint64_t gpa, const void *hva, const struct moult_op_options *options,
                           struct moult_op **op) MOULT_CHECKED;

/* The runs of a moult_vm_pages that succeeded, the op's as long as it lives: RAM, rising and disjoint, then template
 * pages by address, which may be there more than once. Errors: NOT_FOUND. */
MOULT_API int moult_op_pages(const struct moult_op *op, const struct moult_page_run **runs, size_t *count) MOULT_CHECKED;

/* The run that has the page at `gpa`. Errors: NOT_FOUND. */
MOULT_API int moult_op_page_at(const struct moult_op *op, uint64_t gpa, const struct moult_page_run **run) MOULT_CHECKED;

/* The path of a file, as the processes see it; "" for none. The op's. */
MOULT_API const char *moult_op_page_file(const struct moult_op *op, uint32_t file);

/* Pages of RAM whose class, kind, owner or place differ between two ledgers; NULL: not told of. */
struct moult_page_change {
  uint64_t gpa;
  uint64_t length;
  const struct moult_page_run *before; /* the run that has them */
  const struct moult_page_run *after;
};

/* Calls `each` for all changes, by address. Errors: NOT_FOUND. */
MOULT_API int moult_pages_compare(const struct moult_op *before, const struct moult_op *after,
                                  void (*each)(void *user, const struct moult_page_change *change), void *user) MOULT_CHECKED;

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* MOULT_PAGES_H_ */
