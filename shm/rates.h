/*
 * Rates file: what the aggregator tells all workers of a pool. Written by the aggregator only; workers map it
 * read-only.
 *
 * Two slots and a generation: the writer fills the slot that is not current and then stores generation + 1
 * with release. A reader loads the generation with acquire, reads slot[generation & 1], and reads again if
 * the generation has moved on by then. `heartbeat_ns` is stored at least once a second while the aggregator
 * lives.
 *
 * A missing, foreign or stale file means: profile nothing (fail closed).
 */
#ifndef SHM_RATES_H
#define SHM_RATES_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "shm/strata.h"
#include "shm/testpoint.h"

#define RATES_MAGIC UINT64_C(0x73657461724d4f50) /* "POMrates" */
#define RATES_ABI 4u /* 1 had no strata with owners, 2 one set for each, 3 no late admission */

/** Finest detail of a stack that is recorded; coarser is a smaller number. */
enum granularity {
    GRANULARITY_FILE = 0,
    GRANULARITY_METHOD = 1,
    GRANULARITY_LINE = 2,
};

struct rates {
    uint64_t interval_ns; /* sampling interval of armed workers */
    uint64_t cycle_ns;    /* admission cycle */
    uint32_t cap;         /* newly profiled actions a cycle, over the pool; 0: no cap */
    uint32_t granularity; /* enum granularity */
    uint32_t paused;      /* 1: admit nothing */
    uint32_t passthrough; /* 1: hooks do nothing at all, not even count */
    uint32_t process;     /* 1: also sample threads outside any action */
    uint32_t pad;
    uint32_t probability[STRATA]; /* admission: (p + 1) / 2^32 */
    uint32_t owner[STRATA_OWNED]; /* hash of the type that has the stratum to itself; 0: none */
    /* Late admission (struct rates_late), of a type that has the stratum to itself. */
    uint32_t late_after_us[STRATA_OWNED];
    uint32_t late_probability[STRATA_OWNED];
};
_Static_assert(sizeof(struct rates) == 40 + 4 * STRATA + 12 * STRATA_OWNED, "ABI");

struct rates_page {
    uint64_t magic;
    uint32_t abi;
    uint32_t pad;
    _Atomic uint64_t generation;
    _Atomic uint64_t heartbeat_ns; /* CLOCK_MONOTONIC of the aggregator's last cycle */
    uint64_t pad0[4];
    _Atomic uint32_t slot[2][sizeof(struct rates) / 4];
};
_Static_assert(sizeof(struct rates_page) == 64 + 2 * sizeof(struct rates), "ABI");

/** Read one consistent set. Returns false if the writer kept moving (try again later). Any thread. */
static inline bool rates_read(const struct rates_page *page, struct rates *out)
{
    for (int attempt = 0; attempt < 4; attempt++) {
        uint64_t generation = atomic_load_explicit(&page->generation, memory_order_acquire);
        uint32_t *words = (uint32_t *)(void *)out;
        for (unsigned i = 0; i < sizeof(struct rates) / 4; i++)
            words[i] = atomic_load_explicit(&page->slot[generation & 1][i], memory_order_relaxed);
        atomic_thread_fence(memory_order_acquire);
        /* The slot we read is overwritten only by the generation after the next. */
        if (atomic_load_explicit(&page->generation, memory_order_relaxed) == generation)
            return true;
    }
    return false;
}

/** What an admission needs to know. */
struct rates_admission {
    uint64_t interval_ns, cycle_ns;
    uint32_t cap, granularity, paused, probability;
};

/** Read only what an admission in `stratum` needs; otherwise as rates_read. */
static inline bool rates_read_admission(const struct rates_page *page, uint32_t stratum,
                                        struct rates_admission *out)
{
#define RATES_WORD(field) (offsetof(struct rates, field) / 4)
    for (int attempt = 0; attempt < 4; attempt++) {
        uint64_t generation = atomic_load_explicit(&page->generation, memory_order_acquire);
        const _Atomic uint32_t *slot = page->slot[generation & 1];
        uint32_t words[4]; /* in memory order, whatever the machine's byte order */
        for (unsigned i = 0; i < 4; i++)
            words[i] = atomic_load_explicit(&slot[RATES_WORD(interval_ns) + i], memory_order_relaxed);
        memcpy(&out->interval_ns, words, sizeof out->interval_ns);
        memcpy(&out->cycle_ns, words + 2, sizeof out->cycle_ns);
        out->cap = atomic_load_explicit(&slot[RATES_WORD(cap)], memory_order_relaxed);
        out->granularity = atomic_load_explicit(&slot[RATES_WORD(granularity)], memory_order_relaxed);
        out->paused = atomic_load_explicit(&slot[RATES_WORD(paused)], memory_order_relaxed);
        out->probability =
            atomic_load_explicit(&slot[RATES_WORD(probability) + stratum], memory_order_relaxed);
        atomic_thread_fence(memory_order_acquire);
        if (atomic_load_explicit(&page->generation, memory_order_relaxed) == generation)
            return true;
    }
    return false;
#undef RATES_WORD
}

/**
 * Late admission: an action that still runs so long after its begin is sampled from then on with
 * `probability` in all, admitted at its begin or not. Encoded as other probabilities are.
 */
struct rates_late {
    uint32_t after_us; /* 0: nobody is admitted late */
    uint32_t probability;
};

/** Its probability alone, for who was not admitted: all but few need no more. 0: nobody is. */
static inline uint32_t rates_late_probability(const struct rates_page *page, uint32_t stratum)
{
    uint64_t generation = atomic_load_explicit(&page->generation, memory_order_acquire);
    return stratum < STRATA_OWNED
               ? atomic_load_explicit(
                     &page->slot[generation & 1][offsetof(struct rates, late_probability) / 4 + stratum],
                     memory_order_relaxed)
               : 0;
}

/** What holds for late admission in `stratum`. */
static inline struct rates_late rates_read_late(const struct rates_page *page, uint32_t stratum)
{
    struct rates_late late = {0};
    for (int attempt = 0; attempt < 4 && stratum < STRATA_OWNED; attempt++) {
        uint64_t generation = atomic_load_explicit(&page->generation, memory_order_acquire);
        const _Atomic uint32_t *slot = page->slot[generation & 1];
        late.after_us = atomic_load_explicit(&slot[offsetof(struct rates, late_after_us) / 4 + stratum],
                                             memory_order_relaxed);
        late.probability = atomic_load_explicit(&slot[offsetof(struct rates, late_probability) / 4 + stratum],
                                                memory_order_relaxed);
        atomic_thread_fence(memory_order_acquire);
        if (atomic_load_explicit(&page->generation, memory_order_relaxed) == generation)
            return late;
    }
    return (struct rates_late){0};
}

/**
 * The stratum of actions of the type with this hash. Read while the table changes it may be one that the type
 * had or gets: the action is then drawn with that one's probability, which goes with it.
 */
static inline uint32_t rates_stratum(const struct rates_page *page, uint32_t hash)
{
    uint64_t generation = atomic_load_explicit(&page->generation, memory_order_acquire);
    const _Atomic uint32_t *owner = &page->slot[generation & 1][offsetof(struct rates, owner) / 4];
    for (uint32_t i = 0; i < STRATA_PLACES && hash != 0; i++) {
        uint32_t place = strata_place(hash, i);
        if (atomic_load_explicit(&owner[place], memory_order_relaxed) == hash)
            return place;
    }
    return strata_common(hash);
}

/** 1: hooks shall do nothing at all. A single word, so no consistency is needed. */
static inline bool rates_passthrough(const struct rates_page *page)
{
    uint64_t generation = atomic_load_explicit(&page->generation, memory_order_acquire);
    return atomic_load_explicit(&page->slot[generation & 1][offsetof(struct rates, passthrough) / 4],
                                memory_order_relaxed) != 0;
}

/** Publish a set. One writer only. */
static inline void rates_write(struct rates_page *page, const struct rates *in)
{
    uint64_t generation = atomic_load_explicit(&page->generation, memory_order_relaxed);
    const uint32_t *words = (const uint32_t *)(const void *)in;
    atomic_thread_fence(memory_order_release); /* pairs with the acquire fence in rates_read */
    for (unsigned i = 0; i < sizeof(struct rates) / 4; i++)
        atomic_store_explicit(&page->slot[(generation + 1) & 1][i], words[i], memory_order_relaxed);
    TESTPOINT("rates-slot-filled"); /* Workers read the other slot; the next life fills this one again. */
    atomic_store_explicit(&page->generation, generation + 1, memory_order_release);
    TESTPOINT("rates-published"); /* Workers go by the new limits; the next life takes them over. */
}

#endif
