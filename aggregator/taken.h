/*
 * Taken: what was already counted of one worker.
 *
 * A worker's counters are absolute and only grow. The aggregator adds the difference between what stands
 * there now and what it took last time; this is what it took. It is part of the checkpoint, keyed by the
 * segment's uuid, so that neither side's death counts anything twice.
 */
#ifndef AGGREGATOR_TAKEN_H
#define AGGREGATOR_TAKEN_H

#include <stdbool.h>
#include <stdint.h>

#include "aggregator/merge.h"
#include "shm/segment.h"

/** Words of the worker's page, as last seen. */
struct taken_page {
    uint64_t process_cpu_ns, sampler_cpu_ns, hook_cpu_ns;
    uint64_t hooks, admitted, denied[DENIALS], uncounted, other;
    uint64_t unreadable, unattributed, retries, overflow;
    uint64_t lost_records[SEGMENT_LANES], lost_bytes[SEGMENT_LANES];
    uint64_t coarse;
    uint64_t seen[STRATA];
};

struct taken_row {
    uint64_t changes, count, errors, profiled, latency_sum_ns, latency_max_ns;
    uint32_t octave[HISTOGRAM_OCTAVES]; /* the block's number, or OCTAVE_COARSE | count */
    uint32_t denied[DENIALS];
};

struct taken {
    struct taken_page page;
    struct taken_row *row;
    uint32_t rows;
    uint32_t (*block)[HISTOGRAM_SUB];
    uint16_t *block_owner; /* 1 + row * HISTOGRAM_OCTAVES + octave; 0: nobody */
    uint32_t blocks;
    /* since taken_commit */
    struct taken_page page_kept; /* as it was then */
    uint64_t rows_touched[COUNTER_TYPES / 64], blocks_touched[HISTOGRAM_BLOCKS / 64];
};

void taken_close(struct taken *taken);

/** Make room for rows and blocks below these numbers (zeroed). 0 or -ENOMEM. */
int taken_reserve(struct taken *taken, uint32_t rows, uint32_t blocks);

/**
 * Add one row's difference to the open window, as `type` of the pool. `now` and `blocks` are private copies.
 * 0, -ENOMEM, or -EPROTO if a counter fell or a block belongs to two octaves.
 */
int taken_row(struct taken *taken, struct merge *merge, uint32_t row, uint32_t type,
              const struct counter_row *now, const struct histogram_block *blocks);

/** What is here has been kept: from now on only what changes is touched. */
void taken_commit(struct taken *taken);

static inline bool taken_row_touched(const struct taken *taken, uint32_t row)
{
    return taken->rows_touched[row / 64] >> (row % 64) & 1;
}

static inline bool taken_block_touched(const struct taken *taken, uint32_t block)
{
    return taken->blocks_touched[block / 64] >> (block % 64) & 1;
}

/** The difference of a growing word, which is then taken. -EPROTO is noted in `*rc` if it fell. */
uint64_t taken_word(uint64_t *word, uint64_t now, int *rc);

#endif
