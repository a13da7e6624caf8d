/* SPDX-License-Identifier: Apache-2.0
 *
 * Stores: a `file:` pool, one folder for each template.
 *
 * A template is immutable once it is there. It appears whole or not at all, also after a power cut. Any number
 * of processes may use one store. Names are 1 to 64 of [A-Za-z0-9._-], and do not begin with a dot.
 *
 * Errors, threads, blocking and structures are as moult.h says, which includes this. Everything here: since 0.1.
 */
#ifndef MOULT_STORE_H_
#define MOULT_STORE_H_

#include <moult/moult.h>

#ifdef __cplusplus
extern "C" {
#endif

struct moult_store_options {
  size_t size;
  uint32_t flags; /* MOULT_STORE_* */
  uint32_t reserved;
};
#define MOULT_STORE_CREATE 1u /* make the folder (mode 0700) when it is absent; its parent must be there */

/* Opens the store in folder `path`. `options` may be NULL. Blocks on the disk. Removes what earlier processes
 * left half-done.
 * Errors: NOT_FOUND, PERMISSION_DENIED, FAILED_PRECONDITION (not a folder), INVALID_ARGUMENT. */
MOULT_API int moult_store_open(const char *path, const struct moult_store_options *options,
                               struct moult_store **store) MOULT_CHECKED;

/* VMs that use the store keep what they need. NULL is allowed. */
MOULT_API void moult_store_close(struct moult_store *store);

/* The templates as JSON, sorted by name; free it with moult_free(). Blocks on the disk. Reads manifests only:
 *   [{"name", "tenant", "program", "created_ns", "user_state_bytes", "pages_bytes", "image_bytes", "threads",
 *     "vmas", "fds", "kernel_release", "tool_version", "function": {...} or null, "digest", "error"}]
 * `digest` is the SHA-256 of the manifest and so names the whole content. `error` is there, and the rest is
 * not, for a folder that is no good template. */
MOULT_API int moult_store_list_json(struct moult_store *store, char **json) MOULT_CHECKED;

/* One template: the object as in the list, plus "requirements" and "notes". Checks manifest and image.
 * Blocks on the disk. Errors: NOT_FOUND, DATA_LOSS, FAILED_PRECONDITION (another format version). */
MOULT_API int moult_store_show_json(struct moult_store *store, const char *name, char **json) MOULT_CHECKED;

/* Reads and checks every byte, whatever was checked before. Blocks on the disk. Errors as for show. */
MOULT_API int moult_store_verify(struct moult_store *store, const char *name) MOULT_CHECKED;

/* Removes a template. VMs to which it is attached keep its pages until they let go of them. Blocks on the
 * disk. Errors: NOT_FOUND, PERMISSION_DENIED. */
MOULT_API int moult_store_remove(struct moult_store *store, const char *name) MOULT_CHECKED;

struct moult_import_options {
  size_t size;
  const char *function_json; /* what the function is (see moult_vm_run()); NULL: as the template says */
  const char *tenant;        /* NULL: as the template says */
};

/* Copies the template in folder `from` (as `moult-image dump` makes them) into the store under `name`, checks
 * every byte, and gives it what `options` (may be NULL) says. Blocks on the disk.
 * Errors: ALREADY_EXISTS, NOT_FOUND, DATA_LOSS, RESOURCE_EXHAUSTED (disk full; nothing is left). */
MOULT_API int moult_store_import(struct moult_store *store, const char *name, const char *from,
                                 const struct moult_import_options *options) MOULT_CHECKED;

#ifdef __cplusplus
}
#endif

#endif /* MOULT_STORE_H_ */
