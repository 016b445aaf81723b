/*
 * Limits: this process's view of the pool's `budget` and `rates`, and the decision to admit an action.
 *
 * The mappings are made by the sampler thread (limits_refresh) and published by one atomic store each; hooks
 * only load them. An old mapping that was replaced is never unmapped, since a hook may be using it: that
 * happens only when an aggregator's directory was removed and made again.
 */
#ifndef RUNTIME_LIMITS_H
#define RUNTIME_LIMITS_H

#include <stdbool.h>
#include <stdint.h>

#include "shm/budget.h"
#include "shm/rates.h"
#include "shm/segment.h"

/** An aggregator whose last heartbeat is older than this is taken for dead. */
#define LIMITS_STALE_NS (3 * UINT64_C(1000000000))

/** From now on it is the limits of this pool that count. GIL held, before the sampler thread starts. */
void limits_use(const char *pool);

/** Map, or map again if the files were replaced. 0, or -errno if they are not there (yet). Sampler thread. */
int limits_refresh(void);

/** True if an aggregator has shown itself within LIMITS_STALE_NS. Any thread. */
bool limits_alive(uint64_t now_ns);

/** How long the aggregator has been silent, 0 if there is none. Any thread. */
uint64_t limits_silence(uint64_t now_ns);

/** The longest interval of samples while the aggregator is silent, unless it was longer before. */
#define LIMITS_SILENT_INTERVAL_NS UINT64_C(1000000000)

/**
 * The local ceiling: while the aggregator is silent nothing new is profiled, and nobody weighs what is still
 * open against the budget. Its interval is doubled each second from LIMITS_STALE_NS on, up to a second. Pure.
 */
static inline uint64_t limits_ceiling(uint64_t interval_ns, uint64_t silent_ns)
{
    for (uint64_t at = LIMITS_STALE_NS; at <= silent_ns && interval_ns < LIMITS_SILENT_INTERVAL_NS;
         at += UINT64_C(1000000000))
        interval_ns =
            2 * interval_ns < LIMITS_SILENT_INTERVAL_NS ? 2 * interval_ns : LIMITS_SILENT_INTERVAL_NS;
    return interval_ns;
}

/** True if hooks shall do nothing at all. Any thread. */
bool limits_passthrough(void);

/**
 * The whole set. `*generation` is that of what `out` already holds (0: nothing); nothing is read where it is
 * still the current one. False if there is none.
 */
bool limits_rates(struct rates *out, uint64_t *generation);

/** A lane of this process fills: ask the aggregator to come before its time, if nobody has. Sampler thread.
 */
void limits_ring(void);

/** What a profiled action's begin tells: the sampling interval and granularity in force. False if none is. */
bool limits_detail(uint64_t *interval_ns, uint32_t *granularity);

/** The admission stratum of actions of the type with this hash. Any thread. */
uint32_t limits_stratum(uint32_t type_hash);

/** With which probabilities an action was drawn. */
struct limits_draw {
    uint32_t probability;   /* at its begin, (p + 1) / 2^32 */
    struct rates_late late; /* after_us 0: none */
    bool candidate;         /* denied now, and to be admitted if it still runs then */
};

/**
 * Decide whether a root action of `stratum` that begins now is profiled. Returns DENIALS (no denial), or the
 * reason. `random` is a fresh uniform number. Lock-free, about 30 ns.
 *
 * One draw decides both: below p it is admitted, else below the probability of late admission it is a
 * candidate. So that one is the probability of being sampled then, whatever p has come to by then.
 */
enum denial limits_admit(uint32_t stratum, uint64_t now_ns, uint32_t random, struct limits_draw *draw);

/** A candidate's moment has come: may it be sampled from now on? Takes a token of this cycle. Any thread. */
bool limits_admit_late(uint64_t now_ns);

#endif
