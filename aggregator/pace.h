/*
 * Pace: how long the service sleeps until it looks at its workers again. As their lanes fill, and as much as
 * its own cost may be of a pool's budget, in steps that are left again only where there is clear room; where
 * nothing moves, or no pool is near what it may spend, seldom. A pure function.
 */
#ifndef AGGREGATOR_PACE_H
#define AGGREGATOR_PACE_H

#include <stdbool.h>

#include "aggregator/budget.h"

enum {
    PACE_SHORTEST_MS = 20,
};

struct pace {
    unsigned ms, quiet_rounds;
    unsigned step; /* of retreat, where looking is too dear */
    bool at_ease;  /* no brake will be wanted soon */
};

struct pace_facts {
    unsigned attached; /* workers */
    bool moved;        /* something was merged in this round */
    double fill;       /* of the fullest lane, 0 … 1 */
    double own;        /* the highest pace_own of a pool, */
    double spent;      /* and the highest pace_spent, */
    bool cycle;        /* of a cycle that has just ended */
};

/** What looking at a pool cost in the last cycle, of what it is meant to cost at most. */
double pace_own(const struct budget_state *state, const struct budget_asked *asked);

/** What a pool cost in all in the last cycle, of what it may cost; 1 where it is too early to say. */
double pace_spent(const struct budget_state *state, const struct budget_asked *asked);

/** Milliseconds until the next round. */
unsigned pace_next(struct pace *pace, const struct pace_facts *facts);

#endif
