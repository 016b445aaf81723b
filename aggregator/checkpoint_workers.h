/*
 * Workers in a piece of a checkpoint: how far each was merged, and what was taken of its page and counters.
 *
 * Those that are known by the pieces only, as their segment could not be looked at yet, are told of as well;
 * and so are quarantined ones: what was merged of them until then must not be merged again.
 */
#ifndef AGGREGATOR_CHECKPOINT_WORKERS_H
#define AGGREGATOR_CHECKPOINT_WORKERS_H

#include <stdbool.h>
#include <stdint.h>

#include "aggregator/pack.h"
#include "aggregator/pool.h"

/** What an array holds a worker: this, the words of its page that are other, and rows and blocks of counters.
 */
struct worker_head {
    uint8_t uuid[16];
    uint64_t position[SEGMENT_LANES];
    uint64_t cpu_ns;
    uint32_t number, quarantined;
};

struct kept_row {
    uint32_t row, pad;
    struct taken_row taken;
};

struct kept_block {
    uint32_t block;
    uint16_t owner, pad;
    uint32_t bucket[HISTOGRAM_SUB];
};

/** Pack those that were touched, or all, as an array. */
void kept_workers_pack(msgpack_packer *packer, const struct pool *pool, bool whole);

/** Repeat what such an array says, on pool->known. False if it does not add up: then that is half done. */
bool kept_workers_apply(struct pool *pool, const msgpack_object *list);

/** What was packed has been committed: nothing is touched any more. */
void kept_workers_commit(struct pool *pool);

#endif
