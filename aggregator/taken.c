/* Absolute counters, merged by difference: see taken.h. */
#include "aggregator/taken.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "shm/fault.h"

void taken_close(struct taken *taken)
{
    free(taken->row);
    free(taken->block);
    free(taken->block_owner);
    memset(taken, 0, sizeof *taken);
}

static uint32_t rounded(uint32_t n)
{
    return (n + 15) & ~15u;
}

int taken_reserve(struct taken *taken, uint32_t rows, uint32_t blocks)
{
    if (rows > taken->rows) {
        rows = rounded(rows);
        struct taken_row *row = realloc(taken->row, rows * sizeof *row);
        if (row == NULL)
            return fault(ENOMEM, "counters");
        memset(row + taken->rows, 0, (rows - taken->rows) * sizeof *row);
        taken->row = row;
        taken->rows = rows;
    }
    if (blocks > taken->blocks) {
        blocks = rounded(blocks);
        uint32_t(*block)[HISTOGRAM_SUB] = realloc(taken->block, blocks * sizeof *block);
        if (block != NULL)
            taken->block = block;
        uint16_t *owner = realloc(taken->block_owner, blocks * sizeof *owner);
        if (owner != NULL)
            taken->block_owner = owner;
        if (block == NULL || owner == NULL)
            return fault(ENOMEM, "counters");
        memset(block + taken->blocks, 0, (blocks - taken->blocks) * sizeof *block);
        memset(owner + taken->blocks, 0, (blocks - taken->blocks) * sizeof *owner);
        taken->blocks = blocks;
    }
    return 0;
}

void taken_commit(struct taken *taken)
{
    taken->page_kept = taken->page;
    memset(taken->rows_touched, 0, sizeof taken->rows_touched);
    memset(taken->blocks_touched, 0, sizeof taken->blocks_touched);
}

uint64_t taken_word(uint64_t *word, uint64_t now, int *rc)
{
    if (now < *word) {
        *rc = fault(EPROTO, "a counter fell from %llu to %llu", (unsigned long long)*word,
                    (unsigned long long)now);
        return 0;
    }
    uint64_t difference = now - *word;
    *word = now;
    return difference;
}

static int take_block(struct taken *taken, struct merge *merge, struct type_totals *totals, uint32_t number,
                      uint16_t owner, uint32_t octave, const struct histogram_block *now, uint32_t *highest)
{
    uint32_t index = number - 1;
    if (number > taken->blocks || (taken->block_owner[index] != 0 && taken->block_owner[index] != owner))
        return fault(EPROTO, "histogram block %u is not the row's", number);
    taken->block_owner[index] = owner;
    taken->blocks_touched[index / 64] |= UINT64_C(1) << (index % 64);
    for (uint32_t sub = 0; sub < HISTOGRAM_SUB; sub++) {
        uint32_t value = atomic_load_explicit(&now->bucket[sub], memory_order_relaxed);
        uint32_t *last = &taken->block[index][sub];
        if (value == *last)
            continue;
        /* 32 bits that may wrap after 4 billion: the difference is right all the same. */
        merge_bucket(merge, totals, octave * HISTOGRAM_SUB + sub, value - *last);
        *last = value;
        *highest = octave * HISTOGRAM_SUB + sub;
    }
    return 0;
}

static int take_octave(struct taken *taken, struct merge *merge, struct type_totals *totals, uint32_t row,
                       uint32_t octave, uint32_t now, const struct histogram_block *blocks, uint32_t *highest)
{
    uint32_t *last = &taken->row[row].octave[octave];
    if (now == 0)
        return *last == 0 ? 0 : fault(EPROTO, "an octave was emptied");
    if (now & OCTAVE_COARSE) {
        uint32_t before = *last & OCTAVE_COARSE ? *last : OCTAVE_COARSE;
        if ((*last != 0 && !(*last & OCTAVE_COARSE)) || now < before)
            return fault(EPROTO, "a coarse octave fell");
        if (now != before) {
            *highest = octave * HISTOGRAM_SUB + HISTOGRAM_SUB / 2;
            merge_bucket(merge, totals, *highest, now - before);
        }
        *last = now;
        return 0;
    }
    if (now > HISTOGRAM_BLOCKS || (*last != 0 && *last != now))
        return fault(EPROTO, "octave %u points to block %u", octave, now);
    *last = now;
    return take_block(taken, merge, totals, now, (uint16_t)(1 + row * HISTOGRAM_OCTAVES + octave), octave,
                      &blocks[now - 1], highest);
}

int taken_row(struct taken *taken, struct merge *merge, uint32_t row, uint32_t type,
              const struct counter_row *now, const struct histogram_block *blocks)
{
    struct taken_row *last = &taken->row[row];
    int rc = 0;
    taken->rows_touched[row / 64] |= UINT64_C(1) << (row % 64);
    struct merge_count count = {
        .count = taken_word(&last->count, atomic_load_explicit(&now->count, memory_order_relaxed), &rc),
        .errors = taken_word(&last->errors, atomic_load_explicit(&now->errors, memory_order_relaxed), &rc),
        .profiled =
            taken_word(&last->profiled, atomic_load_explicit(&now->profiled, memory_order_relaxed), &rc),
        .latency_sum_ns = taken_word(&last->latency_sum_ns,
                                     atomic_load_explicit(&now->latency_sum_ns, memory_order_relaxed), &rc),
    };
    for (int i = 0; i < DENIALS; i++) {
        uint32_t denied = atomic_load_explicit(&now->denied[i], memory_order_relaxed);
        count.denied[i] = denied - last->denied[i]; /* right also where it has wrapped */
        last->denied[i] = denied;
    }
    uint64_t max = atomic_load_explicit(&now->latency_max_ns, memory_order_relaxed);
    if (taken_word(&last->latency_max_ns, max, &rc) != 0)
        count.latency_max_ns = max;
    struct type_totals *totals = rc == 0 ? merge_count(merge, type, &count) : NULL;
    if (totals == NULL)
        return rc != 0 ? rc : fault(ENOMEM, "counters");
    uint32_t highest = 0;
    for (uint32_t octave = 0; octave < HISTOGRAM_OCTAVES && rc == 0; octave++) {
        uint32_t slot = atomic_load_explicit(&now->octave[octave], memory_order_relaxed);
        rc = take_octave(taken, merge, totals, row, octave, slot, blocks, &highest);
    }
    /* The worker knows only its maximum of all time; where that did not move, the bucket bounds the window's.
     */
    uint64_t bound = histogram_lower_ns(highest + 1);
    if (bound > max)
        bound = max;
    if (count.count != 0 && totals->latency_max_ns < bound)
        totals->latency_max_ns = bound;
    last->changes = atomic_load_explicit(&now->changes, memory_order_relaxed);
    return rc;
}
