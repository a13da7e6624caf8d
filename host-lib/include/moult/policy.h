/* SPDX-License-Identifier: Apache-2.0
 *
 * Keep-alive policies: what is done with a function between its requests. Kept as it is, moved to the pool
 * bit by bit ("semi-warm"), or ended.
 *
 *   intervals  what one function's history says of when its next request comes
 *   policy     looks at one function and decides; one of the library's by name, or the embedder's own
 *
 * A policy has no clock, no thread and no memory of functions: the embedder shows it a function and gets a
 * decision, and carries that out. It is asked
 *   - when the last of a function's requests has ended (IDLE),
 *   - when `wake_after_us` of the decision before has passed without a request (IDLE or FROZEN),
 *   - when a request comes for a function that has none (REQUESTED), before it gets it.
 *
 * Segments. A page belongs to the one in which the function began to hold it: before its runtime was up
 * (runtime; a function whose description has no "runtime_up" has none), before it was ready (init), after that
 * (exec). It goes by virtual address: what moves is young again. Pages that are shared with a template are of none.
 *
 * Errors, structures and strings are as moult.h says. Nothing here blocks. Threads: an intervals and a policy
 * belong to one thread at a time; different ones are independent. A policy of the library's may be asked by
 * several threads at once.
 *
 * Everything here: since 0.1.
 */
#ifndef MOULT_POLICY_H_
#define MOULT_POLICY_H_

#include <moult/moult.h>

#ifdef __cplusplus
extern "C" {
#endif

struct moult_intervals;
struct moult_policy;

/* ---------------------------------------------------------------------------------------------------------
 * Intervals: a histogram of the times from the end of a request to the start of the next, about 260 bytes.
 * Its buckets grow by a quarter of an octave, from 1 ms to 24 days. The past fades: after 4096, all counts
 * are halved.
 * ------------------------------------------------------------------------------------------------------ */

/* Errors: RESOURCE_EXHAUSTED. */
MOULT_API int moult_intervals_create(struct moult_intervals **intervals) MOULT_CHECKED;

/* NULL is allowed. */
MOULT_API void moult_intervals_free(struct moult_intervals *intervals);

/* Counts one. Those that begin while another request runs are none. */
MOULT_API void moult_intervals_add(struct moult_intervals *intervals, uint64_t interval_us);

/* How many are counted; at most 4096. */
MOULT_API uint32_t moult_intervals_count(const struct moult_intervals *intervals);

/* An upper bound, less than 1.2 times the true value, of the interval that share `p` (0 to 1) of them does not
 * exceed. 0 when none is counted. */
MOULT_API uint64_t moult_intervals_percentile(const struct moult_intervals *intervals, double p);

/* ---------------------------------------------------------------------------------------------------------
 * What a policy sees, and what it decides
 * ------------------------------------------------------------------------------------------------------ */

enum moult_segment { MOULT_SEGMENT_RUNTIME = 0, MOULT_SEGMENT_INIT = 1, MOULT_SEGMENT_EXEC = 2 };
#define MOULT_SEGMENTS 3

enum moult_function_state {
  MOULT_FUNCTION_IDLE = 0,     /* can take a request, has none */
  MOULT_FUNCTION_RUNNING = 1,  /* has one or more; every policy leaves it alone */
  MOULT_FUNCTION_FROZEN = 2,   /* stands still */
  MOULT_FUNCTION_REQUESTED = 3 /* idle or frozen, and a request waits for it */
};

struct moult_function_view {
  size_t size;
  uint64_t function; /* the embedder's number for it */
  uint32_t state;    /* enum moult_function_state */
  uint32_t reserved;
  /* On one clock of the embedder's choice, which never goes back. */
  uint64_t now_us;
  uint64_t last_start_us; /* of its last request */
  uint64_t last_end_us;
  double pressure; /* how full the host's memory is, 0 to 1; 0 when that shall not count */
  uint64_t resident[MOULT_SEGMENTS]; /* bytes in guest RAM, by enum moult_segment */
  uint64_t offloaded[MOULT_SEGMENTS]; /* bytes in the pool */
  const struct moult_intervals *intervals; /* of this function; NULL: nothing is known */
};

/* How offloaded pages come back when a request comes. */
enum moult_recall {
  MOULT_RECALL_FAULTS = 0,      /* each when it is touched */
  MOULT_RECALL_WORKING_SET = 1, /* ahead, what the last recall touched; the rest when it is touched */
  MOULT_RECALL_ALL = 2          /* the working set ahead, and then everything else */
};

/* To be carried out in the order of its members. Zeros: leave it as it is. */
struct moult_policy_decision {
  size_t size;
  uint32_t end;    /* 1: end the function, and look no further */
  uint32_t freeze; /* 1: freeze it, if it is not frozen */
  uint32_t recall; /* enum moult_recall; counts in REQUESTED only */
  uint32_t reserved;
  uint64_t offload[MOULT_SEGMENTS]; /* move at most so many bytes of each; of a frozen function only */
  uint64_t wake_after_us;           /* ask again then; UINT64_MAX: not before a request has come and ended */
};

/* ---------------------------------------------------------------------------------------------------------
 * Policies
 * ------------------------------------------------------------------------------------------------------ */

/* One of the library's: NAME[:KEY=VALUE]..., times in seconds, with decimals where one likes.
 *
 *   none       Keeps everything for ever.
 *   fixed      Ends a function that has been idle for
 *                keep_alive_s     600
 *   semi-warm  After a request the exec segment is offloaded at once, the init segment when the next request
 *              has become unlikely, the runtime after it in small steps. A request brings back what it needs. A
 *              function with nothing left is ended in the end. Of FaaSMem (ASPLOS '24).
 *                settle_s         1     how long idle is not yet at rest: spares a busy function the freezing
 *                init_percentile  0.99  init goes after this percentile of the function's intervals,
 *                init_least_s     1     but not before,
 *                init_most_s      600   nor later;
 *                init_known       10    with fewer intervals than this,
 *                init_unknown_s   60    after that
 *                step_mib         1     a step of the runtime, cold pages first, is the larger of a size
 *                step_share       0.01  and a share of the segment,
 *                step_every_s     1     one each so many seconds
 *                end_after_s      14400 ends it after this long, when nothing is resident any more
 *                recall           working-set; or all, or faults
 *                pressure_from    0.8   from here to 1 all waits (not the steps) shrink to nothing
 *
 * Errors: INVALID_ARGUMENT (no such policy; names the parameter). */
MOULT_API int moult_policy_open(const char *spec, struct moult_policy **policy) MOULT_CHECKED;

struct moult_policy_options {
  size_t size;
  /* Decides: `decision` comes with zeros, and UINT64_MAX to wake after. Called inside moult_policy_next(), on
   * its thread. Both structures are of the library's version, and may be larger than the embedder knows. */
  void (*next)(void *user, const struct moult_function_view *view, struct moult_policy_decision *decision);
  void *user;
};

/* One of the embedder's own, for everything that takes a policy. Errors: INVALID_ARGUMENT. */
MOULT_API int moult_policy_create(const struct moult_policy_options *options,
                                  struct moult_policy **policy) MOULT_CHECKED;

/* NULL is allowed. */
MOULT_API void moult_policy_close(struct moult_policy *policy);

/* Asks. Set decision->size before. What is nonsense in the answer of an embedder's policy comes out harmless:
 * never more to offload than is resident, an unknown recall as FAULTS.
 * Errors: INVALID_ARGUMENT (an unknown state, a pressure that is not 0 to 1, sizes). */
MOULT_API int moult_policy_next(struct moult_policy *policy, const struct moult_function_view *view,
                                struct moult_policy_decision *decision) MOULT_CHECKED;

#ifdef __cplusplus
}
#endif

#endif /* MOULT_POLICY_H_ */
