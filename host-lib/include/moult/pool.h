/* SPDX-License-Identifier: Apache-2.0
 *
 * Pools: where templates lie that are not this host's own, by URI
 *
 *   file:/PATH                            a store's folder, on a file system that hosts share
 *   dax:/PATH                             CXL or persistent memory of this host: a devdax device, or a file
 *                                         of a DAX file system
 *   rdma://HOST[:PORT][,HOST[:PORT]]/     memory of other hosts (moult-poold); what follows the first is used
 *                                         when it fails
 *
 * All calls block, for at most timeout_ms (0: 60 s, or, where pages move, as long as it takes); a file system
 * that hangs makes them hang. Any thread. Errors, besides those that are named: INVALID_ARGUMENT (no such
 * URI, or no key file for a pool that asks for one), FAILED_PRECONDITION (no RDMA device), UNAVAILABLE,
 * DEADLINE_EXCEEDED, PERMISSION_DENIED (the key is not the tenant's).
 *
 * Errors, threads, blocking and structures are as moult.h says, which has the operations too. Everything
 * here: since 0.1.
 */
#ifndef MOULT_POOL_H_
#define MOULT_POOL_H_

#include <moult/moult.h>

#ifdef __cplusplus
extern "C" {
#endif

struct moult_pool;

struct moult_pool_options {
  size_t size;
  const char *tenant;   /* as whom; "" when NULL */
  const char *key_file; /* that tenant's key, for pools that ask for one; may be NULL */
  uint32_t timeout_ms;  /* of each call */
  uint32_t reserved;
  /* How far a push, a pull or a verify has come, in bytes of pages; on the calling thread. A push or a
   * pull that has told of all goes on for a while: the pages are made durable then. May be NULL. */
  void (*progress)(void *user, uint64_t done_bytes, uint64_t total_bytes);
  void *user;
};

#define MOULT_POOL_FORMAT_FORCE 1u /* what is there goes */

struct moult_pool_format_options {
  size_t size;
  uint64_t bytes;      /* 0: all of the device or file; else a file that is not there is made, of this size */
  uint32_t flags;      /* MOULT_POOL_FORMAT_* */
  uint32_t timeout_ms; /* 0: 60 s */
};

/* Makes an empty pool of a device or file (dax:). Never done by any other call. `options` may be NULL.
 * Errors: ALREADY_EXISTS (it holds something, and FORCE is not given), FAILED_PRECONDITION (templates of it
 * are in use, with FORCE too; an alignment above 2 MiB), INVALID_ARGUMENT (too small; no device or file;
 * another kind of pool), NOT_FOUND. */
MOULT_API int moult_pool_format(const char* uri,
                                const struct moult_pool_format_options* options) MOULT_CHECKED;

/* `options` may be NULL. */
MOULT_API int moult_pool_open(const char *uri, const struct moult_pool_options *options,
                              struct moult_pool **pool) MOULT_CHECKED;

/* NULL is allowed. */
MOULT_API void moult_pool_close(struct moult_pool *pool);

/* [{"name", "digest", "tenant", "bytes"}]; free it with moult_free(). `digest` is "" for one that is damaged. */
MOULT_API int moult_pool_list_json(struct moult_pool *pool, char **json) MOULT_CHECKED;

/* {"uri", "used_bytes", "limit_bytes", "templates"}; of dax: also "medium" ("devdax", "fsdax", "page cache":
 * a file that is on neither, for trial) and "held_bytes", of those used, which are of removed templates that
 * are still mapped; of a memory node that lends memory for offloaded pages: also "lent_bytes", to VMs of this tenant, and
 * "lend_limit_bytes", to those of all tenants at most. Of several nodes the first that answers tells */
MOULT_API int moult_pool_stat_json(struct moult_pool *pool, char **json) MOULT_CHECKED;

/* Copies a template of the store, checked, into the pool, whole or not at all.
 * Errors: NOT_FOUND, ALREADY_EXISTS, RESOURCE_EXHAUSTED, DATA_LOSS (the store's is damaged). */
MOULT_API int moult_pool_push(struct moult_pool *pool, struct moult_store *store, const char *name) MOULT_CHECKED;

/* The other way, under the same name. */
MOULT_API int moult_pool_pull(struct moult_pool *pool, const char *name, struct moult_store *store) MOULT_CHECKED;

/* VMs that have it attached: see the kind of pool. Errors: NOT_FOUND. */
MOULT_API int moult_pool_remove(struct moult_pool *pool, const char *name) MOULT_CHECKED;

/* Fetches and checks every byte. Errors: NOT_FOUND, DATA_LOSS. */
MOULT_API int moult_pool_verify(struct moult_pool *pool, const char *name) MOULT_CHECKED;

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* MOULT_POOL_H_ */
