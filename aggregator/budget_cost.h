/*
 * Cost: what the controller knows of what work costs, learnt from the cycles that were. For budget.c only.
 *
 * The samplers' cost is in proportion to the exposure: how much of full sampling a cycle was (its interval
 * and the share of the actions that it admitted). What hooks and aggregator cost beyond what they must (the
 * aggregator looking, hooks of actions that are not profiled) is in proportion to the share that was
 * admitted. Both are ratios of sums over several cycles, so that one in which little was profiled says
 * little.
 */
#ifndef AGGREGATOR_BUDGET_COST_H
#define AGGREGATOR_BUDGET_COST_H

#include "aggregator/budget.h"

#define COST_ACTION_CPU 100e-6 /* s: what a profiled action is taken to cost before any was seen */

/** The number of the newest cycle in state->cycle. */
uint32_t cost_last(const struct budget_state *state);

/** All of ours in a cycle. */
double cost_of(const struct budget_measure *measure);

/** The share of the actions asked for that is admitted with this much work. */
double cost_share(double work);

/** Remember how much of full sampling the newest cycle was: `unbraked` of it at state->work. */
void cost_note(struct budget_state *state, const struct budget_asked *asked, double unbraked);

/** What a second of the cycle with this number was like. */
struct budget_load cost_load(const struct budget_state *state, uint32_t index);

/** The mean of two, `a` with the weight `of_a`, `b` with the rest of 1. */
struct budget_load cost_mean(const struct budget_load *a, double of_a, const struct budget_load *b);

/** What a second costs anyway under this load. */
double cost_fixed(const struct budget_state *state, const struct budget_load *load);

/** What a second of such a load would cost the samplers, and hooks and aggregator for its profiled actions,
 * with all work done. */
double cost_sampling(const struct budget_state *state, const struct budget_load *load);
double cost_actions(const struct budget_state *state, const struct budget_load *load);

/** What a second of such a load costs with this much work, and as an overhead with the work in force. */
double cost_at(const struct budget_state *state, const struct budget_load *load, double work);
double cost_dearness(const struct budget_state *state, const struct budget_load *load);

/** Learn from the newest cycle, `recent` being the mean of the last ones. */
void cost_learn(struct budget_state *state, const struct budget_measure *measure,
                const struct budget_load *recent);

/** The most that sampling would cost a second: all but the dearest twentieth of the last ten minutes. 0:
 * unknown. */
double cost_remembered(const struct budget_state *state);

#endif
