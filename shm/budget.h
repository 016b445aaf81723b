/*
 * Budget word: the hard cap on newly profiled actions a cycle, over all workers of a pool.
 *
 * One 64-bit word, (cycle:32 | used:32), in a page that all workers and the aggregator map; advanced by
 * compare-and-swap, so the cap holds exactly however many processes race, without a message and while the
 * aggregator is dead. The cycle is CLOCK_MONOTONIC / cycle length and never moves back: a worker that
 * computed its cycle just before a boundary and finds a newer one gets nothing, so that a cycle's tokens are
 * those of the actions that began in it. A worker killed after its compare-and-swap wastes one token, which
 * is the safe side. tests/model/budget.pml shows that the cap holds, also around a word that was damaged.
 */
#ifndef SHM_BUDGET_H
#define SHM_BUDGET_H

#include <stdatomic.h>
#include <stdbool.h>
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
    _Atomic uint32_t doorbell; /* futex: bumped by a worker that wants to be drained soon */
    _Atomic uint32_t waiting;  /* 1 while the aggregator sleeps on the doorbell */
    uint64_t pad2[7];
};
_Static_assert(sizeof(struct budget_page) == 192, "ABI");

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
