/*
 * Budget word: the hard cap on newly profiled actions a cycle, over all workers of a pool.
 *
 * One 64-bit word, (cycle:32 | used:32), in a page that all workers and the aggregator map; advanced by
 * compare-and-swap, so the cap holds exactly however many processes race, without a message and while the
 * aggregator is dead. The cycle is CLOCK_MONOTONIC / cycle length and never moves back: a worker that
 * computed its cycle just before a boundary and finds a newer one gets nothing, so that a cycle's tokens are
 * those of the actions that began in it. A worker killed after its compare-and-swap wastes one token, which
 * is the safe side. tests/model/budget.pml shows that the cap holds, also around a word that was damaged.
 *
 * Doorbell: between its rounds the aggregator sleeps. A worker that finds a lane filling takes `listening`,
 * and if it got it rings: it touches the times of the page's file, on which the aggregator has an inotify
 * watch, so a ring cannot be lost by coming early. The aggregator sets `listening` before it looks at the
 * lanes, the worker takes it after it put; both with a sequentially consistent fence in between, so one of
 * the two sees the other (tests/model/doorbell.pml). Of all workers one rings for each round. Where the ring
 * fails, or its worker is killed first, the aggregator comes when its time is over.
 */
#ifndef SHM_BUDGET_H
#define SHM_BUDGET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shm/testpoint.h"

#define BUDGET_MAGIC UINT64_C(0x74656764754d4f50) /* "POMudget" */
#define BUDGET_ABI 1u

struct budget_page {
    uint64_t magic;
    uint32_t abi;
    uint32_t pad;
    uint64_t pad0[6];
    _Atomic uint64_t word;
    _Atomic uint64_t peak; /* most tokens ever taken in one cycle */
    uint64_t pad1[6];
    uint32_t pad2;
    _Atomic uint32_t listening; /* 1: a worker whose lane fills is to ring for the aggregator */
    uint64_t pad3[7];
};
_Static_assert(sizeof(struct budget_page) == 192 && offsetof(struct budget_page, listening) == 132, "ABI");

static inline uint32_t budget_cycle_of(uint64_t word)
{
    return (uint32_t)(word >> 32);
}

static inline uint32_t budget_used_of(uint64_t word)
{
    return (uint32_t)word;
}

/**
 * Take one token of the cycle that `cycle` names: the one in which the action begins. There is none left
 * where the word shows a newer cycle. `cap` 0 means no cap (tokens are still counted, in the newer of both).
 * Returns true if the action may be profiled. Any thread of any process; lock-free.
 */
static inline bool budget_take(struct budget_page *page, uint32_t cycle, uint32_t cap)
{
    uint64_t word = atomic_load_explicit(&page->word, memory_order_relaxed);
    for (;;) {
        uint32_t seen = budget_cycle_of(word);
        uint32_t now = (int32_t)(cycle - seen) > 0 ? cycle : seen; /* serial-number comparison */
        uint32_t used = now == seen ? budget_used_of(word) : 0;
        if ((cap != 0 && (now != cycle || used >= cap)) || used == UINT32_MAX)
            return false;
        if (!atomic_compare_exchange_weak_explicit(&page->word, &word, ((uint64_t)now << 32) | (used + 1),
                                                   memory_order_relaxed, memory_order_relaxed))
            continue;
        TESTPOINT("budget-taken"); /* The others see a token less, which nobody uses: the cap holds. */
        uint64_t peak = atomic_load_explicit(&page->peak, memory_order_relaxed);
        while (peak < used + 1u &&
               !atomic_compare_exchange_weak_explicit(&page->peak, &peak, used + 1u, memory_order_relaxed,
                                                      memory_order_relaxed)) {
        }
        return true;
    }
}

/** The share (0 … 1) of the cap that is used in `cycle`; 0 without a cap. For back-off inside a cycle. */
static inline double budget_used_share(const struct budget_page *page, uint32_t cycle, uint32_t cap)
{
    uint64_t word = atomic_load_explicit(&page->word, memory_order_relaxed);
    if (cap == 0 || budget_cycle_of(word) != cycle)
        return 0.0;
    return (double)budget_used_of(word) / (double)cap;
}

/** Aggregator, before it looks at the lanes: from now on it is to be rung for. */
static inline void budget_listen(struct budget_page *page)
{
    atomic_store_explicit(&page->listening, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
}

/** Worker, after it put what fills a lane: true if it is the one to ring. */
static inline bool budget_take_ring(struct budget_page *page)
{
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&page->listening, memory_order_relaxed) == 0 ||
        atomic_exchange_explicit(&page->listening, 0, memory_order_relaxed) == 0)
        return false;
    TESTPOINT("budget-ring-taken"); /* The others do not ring; the aggregator comes when its time is over. */
    return true;
}

/** What budget_audit starts from; load it before the clock is read. */
static inline uint64_t budget_look(const struct budget_page *page)
{
    return atomic_load_explicit(&page->word, memory_order_acquire);
}

/**
 * The aggregator's audit. `cycle` is of a clock read after `word` was looked at, so a word that is ahead of
 * it was damaged and would deny all until its time comes: it is set back. How much of this cycle was given
 * out is not known any more, so the rest of it is denied. Returns true if it had to be.
 */
static inline bool budget_audit(struct budget_page *page, uint64_t word, uint32_t cycle)
{
    if ((int32_t)(budget_cycle_of(word) - cycle) <= 0)
        return false;
    return atomic_compare_exchange_strong_explicit(&page->word, &word, (uint64_t)cycle << 32 | UINT32_MAX,
                                                   memory_order_relaxed, memory_order_relaxed);
}

#endif
