/* SPDX-License-Identifier: Apache-2.0
 *
 * libmoult: swap the function's process image inside a running microVM, from the VMM's side.
 *
 *   store   a folder of templates (captured functions), shared by any number of VMs and processes
 *   vm      one guest: its RAM, its windows, a way to its agent
 *   op      one running operation on a vm
 *
 * Beside it: store.h, which is included here, the folders of templates; pages.h, whose is every page of the guest; pager.h,
 * idle functions' pages out and in; pool.h, templates that lie elsewhere; policy.h, what to do with idle functions.
 *
 * Errors. Calls that return int give 0 (or what they say) when all is well, else a negative errno. The thread
 * that called can then ask moult_last_error() what happened, in words that name the operation, the object and
 * the remedy, and moult_last_error_code() for the canonical code, which is what a program should act on.
 * A call that succeeds leaves both as they were.
 *
 * Threads. The library starts none, installs no signal handlers, never exits and never aborts on input. A
 * store may be used by several threads at once. A vm, and all ops on it, belong to one thread at a time: use a
 * lock or one thread. The exception is moult_op_run(). Different vms are independent.
 *
 * Blocking. Only what says "blocks" blocks. Calls that start an operation return at once; moult_vm_process()
 * moves operations on in steps of a few milliseconds at most, but for disk work (see moult_op_run()).
 *
 * Trust. The embedder and the store are trusted with memory; the guest and its agent are not: whatever they
 * send, no memory outside the vm's registered regions is touched, and no wait is without a deadline.
 *
 * Structures. The first member of every option structure is `size`: set it to sizeof the structure, and all
 * that you do not use to zero (MOULT_INIT). Later versions only append members. Strings are UTF-8 and copied;
 * NULL means "not given" where that is allowed.
 *
 * Everything here: since 0.1.
 */
#ifndef MOULT_MOULT_H_
#define MOULT_MOULT_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MOULT_VERSION_MAJOR 0
#define MOULT_VERSION_MINOR 1
#define MOULT_VERSION_PATCH 0

/* An option structure with its size set and all else zero: struct moult_op_options o = MOULT_INIT(o); */
#ifdef __cplusplus
extern "C++" {
template <typename T>
T moult_init() {
  T structure{};
  structure.size = sizeof(structure);
  return structure;
}
}
#define MOULT_INIT(variable) moult_init<decltype(variable)>()
#else
#define MOULT_INIT(variable) \
  { .size = sizeof(variable) }
#endif

#if defined(__GNUC__)
#define MOULT_API __attribute__((visibility("default")))
#define MOULT_CHECKED __attribute__((warn_unused_result))
#else
#define MOULT_API
#define MOULT_CHECKED
#endif

struct moult_store;
struct moult_vm;
struct moult_op;

/* ---------------------------------------------------------------------------------------------------------
 * Library and errors
 * ------------------------------------------------------------------------------------------------------ */

/* Canonical codes. UNAVAILABLE: try again. FAILED_PRECONDITION: change something first, the message says
 * what. DATA_LOSS: something is damaged, or the agent broke the protocol. The numbers never change. */
enum moult_code {
  MOULT_OK = 0,
  MOULT_CANCELLED = 1,           /* -ECANCELED */
  MOULT_UNKNOWN = 2,             /* -EPROTO */
  MOULT_INVALID_ARGUMENT = 3,    /* -EINVAL */
  MOULT_DEADLINE_EXCEEDED = 4,   /* -ETIMEDOUT */
  MOULT_NOT_FOUND = 5,           /* -ENOENT */
  MOULT_ALREADY_EXISTS = 6,      /* -EEXIST */
  MOULT_PERMISSION_DENIED = 7,   /* -EACCES; also: another tenant's */
  MOULT_RESOURCE_EXHAUSTED = 8,  /* -ENOSPC */
  MOULT_FAILED_PRECONDITION = 9, /* -EBUSY */
  MOULT_ABORTED = 10,            /* -EAGAIN */
  MOULT_OUT_OF_RANGE = 11,       /* -ERANGE */
  MOULT_UNIMPLEMENTED = 12,      /* -EOPNOTSUPP */
  MOULT_INTERNAL = 13,           /* -EIO */
  MOULT_UNAVAILABLE = 14,        /* -ECONNRESET */
  MOULT_DATA_LOSS = 15           /* -EBADMSG */
};

/* "0.1.0". Never fails, any thread. */
MOULT_API const char *moult_version(void);

/* What went wrong in this thread's last failed call; "" before the first. Valid until this thread's next
 * failing call. Never NULL. */
MOULT_API const char *moult_last_error(void);

/* The canonical code that goes with moult_last_error(). */
MOULT_API enum moult_code moult_last_error_code(void);

/* "DEADLINE_EXCEEDED", ...; "UNKNOWN" for a number that is none. Any thread. */
MOULT_API const char *moult_code_name(enum moult_code code);

/* Frees a string that a call gave to the caller. NULL is allowed. */
MOULT_API void moult_free(char *string);

/* ---------------------------------------------------------------------------------------------------------
 * VM
 * ------------------------------------------------------------------------------------------------------ */

/* Guest RAM: [gpa, gpa + length) is the memory at hva. All page aligned; regions may not overlap. The mapping
 * must stay, at this place, until moult_vm_close(). */
struct moult_region {
  uint64_t gpa;
  void *hva;
  uint64_t length;
  uint64_t fd_offset; /* of hva[0] in fd */
  int fd;             /* memfd or tmpfs file, mapped MAP_SHARED; -1: private anonymous memory. Not taken over. */
  uint32_t flags;     /* 0 */
};

/* A window: guest-physical addresses outside RAM, as long as the guest's driver has them. The library maps
 * templates into [hva, hva + length), which must be a mapping that is the embedder's own to give (QEMU: the
 * ivshmem device's memory). hva is page aligned; length a multiple of 2 MiB. */
struct moult_window {
  uint64_t gpa; /* where the guest sees it now; 0: ask the agent (a PCI BAR that the guest places) */
  void *hva;
  uint64_t length;
  uint32_t number; /* as the guest's driver counts them */
  uint32_t flags;  /* 0 */
};

enum moult_transport_kind {
  MOULT_TRANSPORT_VSOCK = 1,   /* AF_VSOCK to cid:port */
  MOULT_TRANSPORT_CONNECT = 2, /* unix socket at path; "CONNECT port\n" is answered by "OK number\n", as
                                  Firecracker, Cloud Hypervisor and vhost-device-vsock do */
  MOULT_TRANSPORT_UNIX = 3,    /* unix socket at path, on which the agent itself listens */
  MOULT_TRANSPORT_FD = 4,      /* fd is connected to the agent; it is taken over when create succeeds. Only one
                                  operation runs at a time, and a broken connection cannot be made again. The
                                  first operation says hello: an agent closes one that has not for 60 s. */
  MOULT_TRANSPORT_CALLBACK = 5 /* connect() makes a connected stream socket; must not block for long */
};

struct moult_transport {
  uint32_t kind; /* enum moult_transport_kind */
  uint32_t cid;
  uint32_t port; /* 0: 1075 */
  int fd;
  const char *path;
  int (*connect)(void *user, uint32_t port); /* a descriptor that is then the library's, or -errno */
  void *user;
};

struct moult_vm_options {
  size_t size;
  const char *name;   /* for messages and logs; may be NULL */
  const char *tenant; /* trust domain of this VM, "" when NULL; templates get it and must have it */
  uint32_t flags;     /* MOULT_VM_* */
  uint32_t reserved;

  struct moult_store *store; /* may be NULL: no capture, attach, repurpose */
  struct moult_transport transport;

  /* May be none: then pages go over the connection (copy mode), and detach is not offered. */
  const struct moult_region *regions;
  size_t region_count;
  size_t region_size; /* sizeof(struct moult_region) */
  const struct moult_window *windows;
  size_t window_count;
  size_t window_size; /* sizeof(struct moult_window) */

  /* The host memory behind [offset, offset + length) of window `number` was replaced, from inside a call of
   * yours on this vm. Throw away what was derived from it: TCG must drop its translations; KVM needs nothing.
   * May be NULL. */
  void (*memory_changed)(void *user, uint32_t number, uint64_t offset, uint64_t length);

  /* An operation has disk work: call moult_op_run(op) on a thread that may block, and keep op until that has
   * returned. Called inside moult_vm_process() or moult_op_wait(). NULL: process does that work itself. */
  void (*work)(void *user, struct moult_op *op);

  /* Something happened that an operator may want to see. Called inside calls of yours on this vm. May be NULL.
   * level: 0 error, 1 warning, 2 information, 3 debug. */
  void (*log)(void *user, int level, const char *message);

  void *user; /* for the hooks */

  /* Where moult_vm_offload() puts pages: "file:FOLDER", a file without a name there; "rdma://HOST[:PORT]/", memory that
   * a memory node lends, and gets back in moult_vm_close(), which may then take up to a second; NULL: nowhere. */
  const char *pool;
  uint64_t pool_bytes; /* at most so much; 0: as much as fits; rdma: needs it, and borrows all of it at the first offload */
  /* Page `gpa` of `function`, which was touched, cannot be had back from the pool, and whoever touched it waits until
   * moult_pager_resolve(). Once for a function until then, on a thread in moult_pager_run(); must not block, and may call
   * nothing of this library. `function` 0: the guest did not end a function that an attach was making, and which waits;
   * resolve 0 with MOULT_RESOLVE_POISON, or end the VM. */
  void (*page_lost)(void *user, uint64_t function, uint64_t gpa, const char *why);

  /* For templates that lie in pools elsewhere (moult_attach_options.from). Their pages come as they are touched, checked,
   * through threads in moult_pager_run(). */
  const char *cache;           /* folder on a tmpfs, for what this host has of them, shared by its VMs; made when absent.
                                  NULL: each VM has its own, which goes with it */
  uint64_t cache_bytes;        /* at most so much, all templates' sizes counted in full; 0: half of the file system */
  const char *pool_key;        /* file with this tenant's key, for pools that ask for one */
  uint64_t prefetch_bytes_per_s; /* fetched behind what was touched after earlier attaches; 0: nothing */
  uint32_t fault_timeout_ms;   /* after which a page that a pool does not give is lost (page_lost), of guest RAM as well; 0: 10 s */
  uint32_t reserved2;
};
#define MOULT_VM_CROSS_TENANT 1u /* let templates of other tenants in. Reuse of a VM does not undo a compromise
                                    of its kernel: know what you do. */

/* Makes a vm. Talks to nobody yet; does not block. `options` and what it points at are copied; the store is
 * kept until the vm is closed, also when it is closed before.
 * Errors: INVALID_ARGUMENT (names the region or window: unaligned, overlapping, not mapped so),
 * FAILED_PRECONDITION (memory that cannot be discarded: a private mapping of a memfd, hugetlbfs, a shared
 * mapping without its fd). */
MOULT_API int moult_vm_create(const struct moult_vm_options *options, struct moult_vm **vm) MOULT_CHECKED;

/* Ends all operations on it (CANCELLED; their handles stay good until freed; no callbacks), closes
 * connections, which makes the agent undo what was under way, and frees. Templates stay mapped in windows,
 * because functions may be using them. Does not block. NULL is allowed. Not from inside a callback. */
MOULT_API void moult_vm_close(struct moult_vm *vm);

/* A descriptor that is readable when moult_vm_process() has something to do, deadlines included. It stays the
 * library's and is the same until close. Use it with poll, epoll or a main loop, level triggered. */
MOULT_API int moult_vm_fd(const struct moult_vm *vm);

/* Moves every operation on by at most one step and calls the `done` functions of those that ended. Returns the
 * number of operations that are still running, or -errno. Does not block, but for disk work when there is no
 * `work` function. Not from inside a callback (FAILED_PRECONDITION). */
MOULT_API int moult_vm_process(struct moult_vm *vm) MOULT_CHECKED;

/* What the library knows of the vm, without asking the agent; free with moult_free():
 *   {"name", "tenant", "ram_bytes", "connections", "operations", "boot_id", "agent_version",
 *    "windows": [{"number", "gpa", "length", "slots": [{"offset", "length", "template", "remote", "direct" (mapped from a dax: pool), "users"}]}],
 *    "reclaiming": [ids of functions that have ended and whose memory is being given back],
 *    "counters": {"operations", "reclaimed_bytes"},
 *    "pager" (with a pool): {"offloaded_bytes", "zero_bytes", "lost_pages", "faults", "fault_pages", "prefetched_pages",
 *      "zeroed_pages": that the pool did not give, of functions that have ended, "pool_used_bytes": without what is being
 *      given back, "pool_limit_bytes", "fault_us_log2": faults by time, [i] under 2^i us},
 *    "offloaded" (with a pool): [{"function", "offloaded_bytes", "faults", "ended": waits for moult_vm_sweep()}], of functions
 *      that had pages out,
 *    "remote" (with a window): {"faults", "hits": of them without the pool, "hit_bytes", "fetched_bytes", "prefetched_bytes",
 *      "prefetch_failures", "unkept_bytes", "lost_slots", "fault_us_log2"},
 *    "cache" (once used): {"used_bytes", "limit_bytes", "templates"}} */
MOULT_API int moult_vm_info_json(struct moult_vm *vm, char **json) MOULT_CHECKED;

/* The embedder restarted the guest (reset, restore of a snapshot): all functions and connections are gone.
 * Running operations end with ABORTED at the next process; windows are emptied. */
MOULT_API int moult_vm_guest_reset(struct moult_vm *vm) MOULT_CHECKED;

/* How often the guest has begun anew since create: by moult_vm_guest_reset(), or, without a word of the VMM's (kexec), by
 * what its agent says when a connection is made. Then functions of before are gone, others will have their numbers, and
 * what you keep of them is void; operations on them end with ABORTED. Look after every moult_vm_process(). */
MOULT_API uint64_t moult_vm_boots(const struct moult_vm *vm);

/* Copies guest RAM [gpa, gpa + length) to `to`; for diagnosis. Takes as long as the copy.
 * Errors: OUT_OF_RANGE when it is not inside one region. */
MOULT_API int moult_vm_read(struct moult_vm *vm, uint64_t gpa, void *to, size_t length) MOULT_CHECKED;

/* ---------------------------------------------------------------------------------------------------------
 * Operations
 *
 * Each of the calls below starts one, returns at once and gives a handle, which the caller frees. They fail at
 * once for what is wrong with the arguments; everything else is the operation's outcome. Operations on one vm
 * run side by side; two on one function are refused by the agent.
 * ------------------------------------------------------------------------------------------------------ */

struct moult_op_options {
  size_t size;
  uint32_t timeout_ms; /* for the whole operation; 0: the verb's default, 10 s to 120 s */
  uint32_t reserved;
  /* Called once when the operation has ended, inside moult_vm_process() or moult_op_wait(). It may start
   * operations and free this one. May be NULL. */
  void (*done)(void *user, struct moult_op *op);
  void *user;
};

enum moult_op_state {
  MOULT_OP_RUNNING = 0,
  MOULT_OP_SUCCEEDED = 1,
  MOULT_OP_FAILED = 2
};

/* Versions, features and windows of the agent. Result: {"hello": {...}} */
MOULT_API int moult_vm_hello(struct moult_vm *vm, const struct moult_op_options *options,
                             struct moult_op **op) MOULT_CHECKED;

/* What is wrong in the guest, and in how the vm was given to us. Result: {"checks": [{"name", "ok", "detail",
 * "remedy"}]}, with "note": true where what is not there is no fault, as a window that a vm was not given. Succeeds also
 * when checks are not ok. */
MOULT_API int moult_vm_doctor(struct moult_vm *vm, const struct moult_op_options *options,
                              struct moult_op **op) MOULT_CHECKED;

/* The agent's functions. Result: {"functions": [{...}]}; with a pool each has "offloaded_bytes", "recall_faults" and
 * "lost_pages"; of one that has ended they tell what moult_vm_sweep() has not given back yet. */
MOULT_API int moult_vm_list(struct moult_vm *vm, const struct moult_op_options *options,
                            struct moult_op **op) MOULT_CHECKED;

/* ---------------------------------------------------------------------------------------------------------
 * Functions: run, freeze, end; capture as a template, attach from one; and what an operation has to say
 * ------------------------------------------------------------------------------------------------------ */

/* Starts a function; ends when it is ready. Result: {"function": {...}}. `function_json`:
 *   {"name": "thumb", "argv": ["python3", "app.py"], "env": ["A=1"], "cwd": "/", "uid": 0, "gid": 0,
 *    "memory_limit": 0, "cpu_limit_milli": 0, "pids_limit": 0,
 *    "endpoint": {"kind": "unix", "path": "/run/f.sock"} or {"kind": "tcp", "port": 8080},
 *    "readiness": {"kind": "started" | "connect" | "http_get" | "line", "path", "line", "timeout_ms"},
 *    "runtime_up": as readiness, before it: what the function holds then is its runtime segment (moult/policy.h),
 *    "before_capture": {"kind": "command" | "http_get", "command": [...], "path", "timeout_ms"},
 *    "after_attach": as before_capture}
 * name and argv must be there. Members that are unknown are refused. */
MOULT_API int moult_vm_run(struct moult_vm *vm, const char *function_json,
                           const struct moult_op_options *options, struct moult_op **op) MOULT_CHECKED;

MOULT_API int moult_vm_freeze(struct moult_vm *vm, uint64_t function, const struct moult_op_options *options,
                              struct moult_op **op) MOULT_CHECKED;
MOULT_API int moult_vm_thaw(struct moult_vm *vm, uint64_t function, const struct moult_op_options *options,
                            struct moult_op **op) MOULT_CHECKED;

/* Ends a function. Its pages go to the guest's kernel as they are: use detach where nothing may be left. One that has pages
 * in the pool is made to stand still first, if it can be had within 2 s, so that nobody who gets their page frames waits for
 * a pool that does not answer: he finds zeros, after a second at most. An error that leaves it alive lets it run again. */
MOULT_API int moult_vm_kill(struct moult_vm *vm, uint64_t function, const struct moult_op_options *options,
                            struct moult_op **op) MOULT_CHECKED;

/* Drops what the agent knows of a function that has ended. */
MOULT_API int moult_vm_forget(struct moult_vm *vm, uint64_t function, const struct moult_op_options *options,
                              struct moult_op **op) MOULT_CHECKED;

/* How page content travels. */
enum moult_page_mode {
  MOULT_PAGES_AUTO = 0,     /* in place where RAM (capture) or window and driver (attach) are there, else copy */
  MOULT_PAGES_IN_PLACE = 1, /* through guest RAM or the window, or fail */
  MOULT_PAGES_COPY = 2      /* over the connection */
};

struct moult_capture_options {
  size_t size;
  uint64_t function;
  const char *name;     /* of the new template */
  uint32_t end;         /* not 0: end the function once the template is durable; else it runs on */
  uint32_t pages;       /* enum moult_page_mode */
};

/* Makes a template of a function. The function stands still only until its pages were gathered, when it is to
 * run on. On failure it runs on, and nothing is left in the store.
 * Result: {"template": {...}, "stopped_us", "phases", "counters": {"pages", "zero_pages", "bytes"}} */
MOULT_API int moult_vm_capture(struct moult_vm *vm, const struct moult_capture_options *capture,
                               const struct moult_op_options *options, struct moult_op **op) MOULT_CHECKED;

struct moult_fork_options {
  size_t size;
  uint64_t function;
  const char *name;     /* of the new template, in the pool and meanwhile in the vm's store */
  const char *to;       /* URI of the pool: "file:/PATH", "dax:/PATH", "rdma://HOST[:PORT]/" */
  uint32_t pages;       /* enum moult_page_mode */
  uint32_t flags;       /* MOULT_FORK_* */
};
#define MOULT_FORK_KEEP 1u /* leave the template in the vm's store, whether it got into the pool or not */

/* Makes a template of a function that runs on, and puts it into a pool, where other hosts attach to it at once. The
 * function stands still as for moult_vm_capture() and no longer: the pages go to the pool when it runs again. The template
 * has the vm's tenant; the pool is opened with that, and with pool_key, before the function is stopped. On failure it runs
 * on, and nothing is left in the pool. The template in the vm's store is removed in either case, unless KEEP is given; where
 * that fails, "notes" say so. Pages move within the operation's time (timeout_ms).
 * Errors: those of moult_vm_capture() and moult_pool_push(); ALREADY_EXISTS (store or pool has that name),
 * FAILED_PRECONDITION (the pool is the vm's own store).
 * Result: capture's members, "to", "pushed", "kept" (in the store), "notes" */
MOULT_API int moult_vm_fork(struct moult_vm *vm, const struct moult_fork_options *fork,
                            const struct moult_op_options *options, struct moult_op **op) MOULT_CHECKED;

struct moult_attach_options {
  size_t size;
  const char *name;  /* the template's */
  uint32_t pages;    /* enum moult_page_mode */
  uint32_t flags;    /* MOULT_ATTACH_* */
  const char* from;  /* URI of the pool that has it: "file:/PATH", "dax:/PATH", "rdma://HOST[:PORT]/"; NULL:
                        the vm's store */
  const char *digest; /* with `from`: of the manifest that it must have, hex; NULL: whatever is there */
};
#define MOULT_ATTACH_SETTLED 1u /* repurpose: end only when the old function's memory has been given back */

/* Makes a function of a template; ends when it is ready. On failure the guest is as before. A place in a window that
 * no function uses any more keeps its template, for the next attach, until another needs it or moult_vm_detach() ends
 * the last one, and longer where the agent says that something in the guest still has its pages.
 * From a pool elsewhere it starts when manifest and image are here and checked; in place its pages come, checked, as they
 * are touched, and "bytes_by_source": {"cache", "pool"} tells where they came from until it was ready.
 * Result: {"function": {...}, "pages": "in_place" | "copy", "phases", "notes"} */
MOULT_API int moult_vm_attach(struct moult_vm *vm, const struct moult_attach_options *attach,
                              const struct moult_op_options *options, struct moult_op **op) MOULT_CHECKED;

/* Ends a function, and gives back what it had in memory, so that nothing of it is left. The guest's driver holds its
 * pages from its end on until they are discarded. What the host cannot discard, because the connection or the agent is
 * lost, or because the pool does not let go of some of it for 3 s, the guest fills with zeros, all of it, which "notes" then
 * tells; "discarded_bytes" is 0 then. When it is not known whether the function has ended, the
 * operation fails with DATA_LOSS and "detached" false; on any other failure that leaves "detached" false it runs on.
 * Needs regions. Result: {"detached", "discarded_bytes", "phases", "notes", "counters": {"ranges", "zeroed_bytes"}} */
MOULT_API int moult_vm_detach(struct moult_vm *vm, uint64_t function, const struct moult_op_options *options,
                              struct moult_op **op) MOULT_CHECKED;

/* Ends `function`, attaches as `attach` says, and gives back what `function` had in memory: that last, in an operation
 * of the library's own (moult_vm_info_json() "reclaiming"), unless pages are copied, a window has no other room, or
 * MOULT_ATTACH_SETTLED asks for it. The template is checked, its tenant compared and its place in the window found
 * first: when any of that fails, `function` runs on. Result: both operations' members; "detached" says whether the
 * function has ended, also when the operation failed; "settled" whether its memory was given back before the end. */
MOULT_API int moult_vm_repurpose(struct moult_vm *vm, uint64_t function,
                                 const struct moult_attach_options *attach,
                                 const struct moult_op_options *options, struct moult_op **op) MOULT_CHECKED;

/* A byte stream to the function's endpoint: take it with moult_op_take_fd(). Not with MOULT_TRANSPORT_FD. */
MOULT_API int moult_vm_tunnel(struct moult_vm *vm, uint64_t function, const struct moult_op_options *options,
                              struct moult_op **op) MOULT_CHECKED;

struct moult_logs_options {
  size_t size;
  uint64_t function;
  uint64_t tail_bytes; /* at most this much of what is there; 0: all that is kept */
  uint32_t follow;     /* not 0: go on with what comes */
  uint32_t reserved;
};

/* The function's output as a byte stream: take it with moult_op_take_fd(). Not with MOULT_TRANSPORT_FD. */
MOULT_API int moult_vm_logs(struct moult_vm *vm, const struct moult_logs_options *logs,
                            const struct moult_op_options *options, struct moult_op **op) MOULT_CHECKED;

MOULT_API enum moult_op_state moult_op_state(const struct moult_op *op);

/* Processes the op's vm, and so all its operations, until this one has ended. Blocks, for at most timeout_ms
 * (-1: the operation's own deadline). Returns what moult_op_result() does, or -ETIME when it is still running;
 * it goes on then. Not from inside a callback. */
MOULT_API int moult_op_wait(struct moult_op *op, int timeout_ms) MOULT_CHECKED;

/* 0 when the operation succeeded; else -errno, with moult_last_error() set to why it failed. -EINPROGRESS
 * while it is running. */
MOULT_API int moult_op_result(const struct moult_op *op) MOULT_CHECKED;

/* The result, owned by op; "" while it is running. Also after a failure. Always has "op", "ok", "total_us",
 * "phases": [{"name", "us"}] in order of time, names beginning "agent." or "host."; on failure "error":
 * {"code", "message"}. */
MOULT_API const char *moult_op_result_json(const struct moult_op *op);

/* The same for programs: 0 where the operation has none. */
struct moult_result {
  size_t size;
  uint64_t function;        /* the id of the function that was made or asked for */
  uint64_t total_us;        /* from the start call to the end */
  uint64_t stopped_us;      /* capture: how long the function stood still */
  uint64_t bytes;           /* page content that was gathered, mapped or sent */
  uint64_t discarded_bytes; /* detach, repurpose */
  uint32_t detached;        /* repurpose, detach: the old function is gone */
  uint32_t pages;           /* enum moult_page_mode that was used */
};
/* Errors: -EINPROGRESS while it is running, INVALID_ARGUMENT. A failed operation fills in what it knows. */
MOULT_API int moult_op_numbers(const struct moult_op *op, struct moult_result *result) MOULT_CHECKED;

/* The descriptor of a tunnel or logs operation that succeeded: a non-blocking stream socket, from now on the
 * caller's. -ENOENT: there is none (any more). */
MOULT_API int moult_op_take_fd(struct moult_op *op) MOULT_CHECKED;

/* Does the disk work that `work` announced. Blocks. Any one thread, also while another processes the vm;
 * returns 0, or -ENOENT when there is nothing to do. The outcome is the operation's. */
MOULT_API int moult_op_run(struct moult_op *op) MOULT_CHECKED;

/* Asks a running operation to stop; it ends with CANCELLED at a later process, after it has undone what it
 * can. A detach that has begun to discard goes on. No effect on one that has ended. */
MOULT_API void moult_op_cancel(struct moult_op *op);

/* Frees the handle. One that is running is cancelled and goes on to its end without it; its `done` function
 * is not called. NULL is allowed. */
MOULT_API void moult_op_free(struct moult_op *op);

#ifdef __cplusplus
}
#endif

#include <moult/store.h>

#endif /* MOULT_MOULT_H_ */
