/*
 * Counters: exact totals of every action, profiled or not, by local action type.
 *
 * They are absolute values that only grow, written by the threads that hold the GIL (one producer) and read
 * by the aggregator at any time, also after the worker's death; the aggregator merges differences, so nothing
 * is counted twice and nothing of a dead worker is lost. `changes` is stored last, with release: a reader
 * that finds it unchanged may skip the row.
 *
 * Latency histogram: log-linear. An octave [2^k, 2^(k+1)) ns has 16 equal sub-buckets, so a quantile is known
 * within 1/16 of its value. Octaves start at 2^10 ns (about 1 us) and end at 2^38 ns (275 s); what lies
 * outside goes to the nearest bucket. A row's octave word is 0 (nothing seen), a block number (1-based) in
 * the pool of blocks, or, once the pool is spent, OCTAVE_COARSE | count: one bucket for the whole octave.
 */
#ifndef SHM_COUNTERS_H
#define SHM_COUNTERS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "shm/testpoint.h"

enum {
    COUNTER_TYPES = 256,    /* rows; row 0 is "(other)", for what found no row */
    HISTOGRAM_FIRST = 10,   /* log2 of the first octave's lower bound in ns */
    HISTOGRAM_OCTAVES = 28, /* */
    HISTOGRAM_SUB = 16,     /* sub-buckets an octave */
    HISTOGRAM_BUCKETS = HISTOGRAM_OCTAVES * HISTOGRAM_SUB,
    HISTOGRAM_BLOCKS = 640, /* blocks in the pool */
};
#define OCTAVE_COARSE UINT32_C(0x80000000)

/** Why an action was not profiled. */
enum denial {
    DENIED_NO_RATES = 0,  /* no aggregator, or its file is stale */
    DENIED_PAUSED = 1,    /* the overhead budget is spent */
    DENIED_LOTTERY = 2,   /* not drawn */
    DENIED_CAP = 3,       /* drawn, but the cycle's cap was used up */
    DENIED_LANE_FULL = 4, /* no room for its begin record */
    DENIED_NO_SLOT = 5,   /* too many profiled actions open in this process */
    DENIALS = 6,
};

struct counter_row {
    _Atomic uint64_t changes;
    _Atomic uint64_t count;    /* actions ended */
    _Atomic uint64_t errors;   /* of these, with an error */
    _Atomic uint64_t profiled; /* of these, profiled */
    _Atomic uint64_t latency_sum_ns;
    _Atomic uint64_t latency_max_ns;
    _Atomic uint32_t octave[HISTOGRAM_OCTAVES];
    _Atomic uint32_t denied[DENIALS]; /* of the rest, why; may wrap */
    uint32_t pad[2];
};
_Static_assert(sizeof(struct counter_row) == 192, "ABI");

struct histogram_block {
    _Atomic uint32_t bucket[HISTOGRAM_SUB];
};

struct counters {
    _Atomic uint32_t rows_used; /* rows [0, rows_used) have a type definition */
    _Atomic uint32_t blocks_used;
    _Atomic uint64_t coarse; /* actions that found the pool of blocks spent */
    uint64_t pad[6];
    struct counter_row row[COUNTER_TYPES];
    struct histogram_block block[HISTOGRAM_BLOCKS];
};
_Static_assert(sizeof(struct counters) == 64 + 192 * COUNTER_TYPES + 64 * HISTOGRAM_BLOCKS, "ABI");

/** The flat bucket (0 … HISTOGRAM_BUCKETS-1) of a latency. */
static inline uint32_t histogram_bucket(uint64_t ns)
{
    if (ns < (UINT64_C(1) << HISTOGRAM_FIRST))
        return 0;
    uint32_t log2 = 63u - (uint32_t)__builtin_clzll(ns);
    if (log2 >= HISTOGRAM_FIRST + HISTOGRAM_OCTAVES)
        return HISTOGRAM_BUCKETS - 1;
    uint32_t sub = (uint32_t)(ns >> (log2 - 4)) & (HISTOGRAM_SUB - 1);
    return (log2 - HISTOGRAM_FIRST) * HISTOGRAM_SUB + sub;
}

/** Lower bound in ns of a flat bucket; that of `bucket + 1` is its upper bound. */
static inline uint64_t histogram_lower_ns(uint32_t bucket)
{
    uint32_t octave = bucket / HISTOGRAM_SUB;
    uint64_t base = UINT64_C(1) << (HISTOGRAM_FIRST + octave);
    return base + (base / HISTOGRAM_SUB) * (bucket % HISTOGRAM_SUB);
}

/** Add to a word that has one writer: no read-modify-write. */
static inline void counter_add(_Atomic uint64_t *word, uint64_t n)
{
    atomic_store_explicit(word, atomic_load_explicit(word, memory_order_relaxed) + n, memory_order_relaxed);
}

/** Count one ended action in `row`; `denial` DENIALS: it was profiled. Only with the GIL held. About 10 ns.
 */
static inline void counters_add(struct counters *counters, uint32_t row, uint64_t latency_ns, bool error,
                                enum denial denial)
{
    struct counter_row *r = &counters->row[row];
    uint32_t bucket = histogram_bucket(latency_ns);
    _Atomic uint32_t *octave = &r->octave[bucket / HISTOGRAM_SUB];
    uint32_t slot = atomic_load_explicit(octave, memory_order_relaxed);
    if (slot == 0) {
        uint32_t used = atomic_load_explicit(&counters->blocks_used, memory_order_relaxed);
        slot = used < HISTOGRAM_BLOCKS ? used + 1 : OCTAVE_COARSE;
        if (slot != OCTAVE_COARSE)
            atomic_store_explicit(&counters->blocks_used, used + 1, memory_order_relaxed);
        TESTPOINT("counter-block-claimed"); /* The block belongs to nobody for ever, which harms nobody. */
        atomic_store_explicit(octave, slot, memory_order_relaxed);
    }
    if (slot & OCTAVE_COARSE) {
        atomic_store_explicit(octave, slot + 1, memory_order_relaxed);
        counter_add(&counters->coarse, 1);
    } else {
        _Atomic uint32_t *b = &counters->block[slot - 1].bucket[bucket % HISTOGRAM_SUB];
        atomic_store_explicit(b, atomic_load_explicit(b, memory_order_relaxed) + 1, memory_order_relaxed);
    }
    TESTPOINT("counter-bucket-stored"); /* The aggregator may read the row half done: with this action's
                                           bucket ... */
    counter_add(&r->count, 1);
    TESTPOINT(
        "counter-count-stored"); /* ... or without its latency. It counts each word by its difference. */
    counter_add(&r->latency_sum_ns, latency_ns);
    if (latency_ns > atomic_load_explicit(&r->latency_max_ns, memory_order_relaxed))
        atomic_store_explicit(&r->latency_max_ns, latency_ns, memory_order_relaxed);
    if (error)
        counter_add(&r->errors, 1);
    if (denial == DENIALS)
        counter_add(&r->profiled, 1);
    else
        atomic_store_explicit(&r->denied[denial],
                              atomic_load_explicit(&r->denied[denial], memory_order_relaxed) + 1,
                              memory_order_relaxed);
    atomic_store_explicit(&r->changes, atomic_load_explicit(&r->changes, memory_order_relaxed) + 1,
                          memory_order_release);
    TESTPOINT("counter-changes-stored"); /* The aggregator will read the row, with the whole action. */
}

#endif
