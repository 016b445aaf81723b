/*
 * Strata: the classes of actions that are admitted with one probability each.
 *
 * What is known when an action begins is its type (or the one that its path turned out to be of last time),
 * as a hash. The types that a pool has shown have strata of their own: the aggregator assigns them, and its
 * table in `rates` says which hash owns which. It is a table of sets: a hash belongs to two sets and may own
 * any place of them, so a worker looks at eight words, and hardly any type finds no place before the table is
 * full. What owns none is folded into the common stratum of its first set. So a rare type is not drawn with
 * the probability of a busy one, unless both are new.
 */
#ifndef SHM_STRATA_H
#define SHM_STRATA_H

#include <stddef.h>
#include <stdint.h>

enum {
    STRATA_SETS = 64,
    STRATA_WAYS = 4,
    STRATA_PLACES = 2 * STRATA_WAYS,
    STRATA_OWNED = STRATA_SETS * STRATA_WAYS, /* places in the table; their strata come first */
    STRATA = STRATA_OWNED + STRATA_SETS,
};

/** FNV-1a, 32 bits (Fowler, Noll, Vo). */
static inline uint32_t hash_bytes(const char *bytes, size_t length)
{
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (uint8_t)bytes[i]) * 16777619u;
    return hash;
}

/** The i-th place (of STRATA_PLACES) that a hash may own. */
static inline uint32_t strata_place(uint32_t hash, uint32_t i)
{
    uint32_t set = i < STRATA_WAYS ? hash ^ (hash >> 15) : (hash >> 7) ^ (hash >> 21);
    return (set & (STRATA_SETS - 1)) * STRATA_WAYS + i % STRATA_WAYS;
}

/** The stratum of what owns none. */
static inline uint32_t strata_common(uint32_t hash)
{
    return STRATA_OWNED + strata_place(hash, 0) / STRATA_WAYS;
}

#endif
