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

/** A window was closed (rescaled): its merged profiles, and what was spent and decided
 * since the last one, for destinations with `profiles`. */
void deliver_window(const struct pool *pool, const struct window *window);

#endif
