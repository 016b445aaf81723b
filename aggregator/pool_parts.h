/*
 * What the parts of a pool know of each other: its life and rounds (pool.c), the finding of what lies in its
 * folder (pool_scan.c), what it may cost (pool_budget.c). Others use pool.h.
 */
#ifndef AGGREGATOR_POOL_PARTS_H
#define AGGREGATOR_POOL_PARTS_H

#include <sys/stat.h>

#include "aggregator/pool.h"

/** Is this its user's folder, or one that we made for a guest (guests.h)? */
bool pool_is_ours(const struct stat *st, uid_t uid);

/** The chain of `pool->named` in which a worker whose file has this name is, or belongs. */
struct worker **pool_named(struct pool *pool, const char *name);

/** Let go of a worker that is in the list no more. */
void pool_forget_worker(struct pool *pool, struct worker *worker);

/** Forget the workers of the checkpoint whose segment was not found. */
void pool_forget_unfound(struct pool *pool);

/** Requests or configuration changed: what do they ask for together? */
void pool_judge_requests(struct pool *pool);

/** The first limits of this life, published. */
void pool_limits_begin(struct pool *pool);

/** Decide and publish the limits of the next cycle by what the last one cost. */
void pool_limits_step(struct pool *pool, uint64_t now_ns);

/** The pages are new files: tell workers again what holds. */
void pool_limits_retell(struct pool *pool);

#endif
