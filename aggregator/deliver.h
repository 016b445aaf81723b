/*
 * Deliver: hand messages to whoever asked for them: the pool's destinations and a process's subscribers.
 * A message is built only if somebody wants it.
 */
#ifndef AGGREGATOR_DELIVER_H
#define AGGREGATOR_DELIVER_H

#include <stdint.h>

#include "aggregator/pool.h"

/** merge.h's on_root: `context` is the pool. */
void deliver_root(const struct merge *merge, uint32_t root, void *context);

/**
 * Hand over the closed windows that were not yet: their merged profiles, and what was spent and decided since
 * the last one, for destinations with `profiles`. To be called when a checkpoint tells of the windows: what
 * is told again in the next life, if this one ends before the next checkpoint, is then the same.
 */
void deliver_windows(struct pool *pool);

#endif
