/*
 * Usual: what load the controller goes by, told apart from chance. For budget.c only.
 *
 * It is the mean of the cycles since the load became what it is, and of no more than USUAL_CYCLES, in which
 * later ones weigh more. Few profiled actions tell little: whether the load became another is judged by means
 * of the last one, two, four and eight cycles, each held against what is usual and against how far chance
 * takes so many actions. Until a window has passed since then, the load is not settled.
 */
#ifndef AGGREGATOR_BUDGET_USUAL_H
#define AGGREGATOR_BUDGET_USUAL_H

#include "aggregator/budget.h"

enum {
    USUAL_RECENT = 5, /* cycles whose mean tells what things cost */
};

/** The mean of the last cycles (of the newest, and those before it that say anything). */
struct budget_load usual_recent(const struct budget_state *state, uint32_t cycles);

/** Take the newest cycle into what is usual, or replace that. */
void usual_learn(struct budget_state *state, const struct budget_asked *asked);

/** Has it been the same for a whole window? */
bool usual_settled(const struct budget_state *state);

/** The standard error of what profiling costs by what is usual, as a ratio of that. */
double usual_doubt(const struct budget_state *state);

#endif
