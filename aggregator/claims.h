/*
 * Claims: what a worker says that our parts in it cost, held against what the kernel says.
 *
 * The budget is one for all workers, so one that claims too much, by damage or on purpose, would take the
 * others' part. The dearest claim of a pool is checked: against the CPU of the process, which is known
 * anyway, and against that of its sampler thread (/proc/PID/task/TID/schedstat). A worker that was found
 * wrong is checked for good, and counts with what the kernel says. One in another pid namespace cannot be
 * checked.
 */
#ifndef AGGREGATOR_CLAIMS_H
#define AGGREGATOR_CLAIMS_H

#include <stdint.h>

#include "aggregator/workers.h"

/** What a worker claimed since it was asked last. */
struct claim claims_take(struct worker *worker);

/** Is it worth checking, beside what all workers of the pool claimed for their samplers? */
bool claims_stand_out(const struct worker *worker, const struct claim *claim, uint64_t all_ns);

/** What of the claim is not true; `used_ns` is what the whole process used meanwhile. */
struct claim claims_excess(struct worker *worker, const struct claim *claim, uint64_t used_ns);

#endif
