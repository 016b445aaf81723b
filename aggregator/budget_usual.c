/* What load is usual: see budget_usual.h. */
#include "aggregator/budget_usual.h"

#include <math.h>

#include "aggregator/budget_cost.h"

#define USUAL_CYCLES 60 /* whose mean it is at most */
/* So many cycles of those tell as much if all weigh alike: (sum w)^2 / sum w^2 with w = 1, 2, … */
#define WEIGHTED 0.75
#define CHANCE 4.5  /* standard deviations of a number of actions */
#define ALIKE 1.15  /* times as dear is no other load, however many actions tell it */
#define ANOTHER 0.3 /* of the demand that is usual, and chance: more is another load */
enum {
    LONGEST_LOOK = 8, /* cycles back */
    CHEAPER_LOOK = 4, /* … and so many at least, before what is usual falls */
};

struct budget_load usual_recent(const struct budget_state *state, uint32_t cycles)
{
    uint32_t last = cost_last(state), n = 1;
    struct budget_load mean = cost_load(state, last);
    for (uint32_t i = 1; i < cycles && i < state->cycles; i++) {
        uint32_t index = (last + BUDGET_CYCLES - i) % BUDGET_CYCLES;
        if (state->exposure[index] <= 0)
            continue;
        struct budget_load one = cost_load(state, index);
        mean = cost_mean(&one, 1.0 / ++n, &mean);
    }
    return mean;
}

/* How many times its mean a number of actions is by chance: the square root of such a number has a standard
 * deviation of a half, whatever the mean (Anscombe 1948). */
static double chance(double mean)
{
    double root = 1 + CHANCE / 2 / sqrt(fmax(mean, 1));
    return root * root;
}

static bool is_another_demand(const struct budget_load *known, const struct budget_load *newest)
{
    double by_chance = CHANCE * sqrt(fmax(known->demand, newest->demand));
    return fabs(newest->demand - known->demand) > by_chance + ANOTHER * known->demand;
}

/* What is known becomes what it would cost under the newest load. */
static void follow_demand(struct budget_load *known, const struct budget_asked *asked,
                          const struct budget_load *newest)
{
    double cap = asked->cap != 0 ? asked->cap : INFINITY;
    double profiled = fmin(newest->demand, cap) / fmax(fmin(known->demand, cap), 1);
    known->worker_cpu = newest->worker_cpu;
    known->attached = newest->attached;
    known->demand = newest->demand;
    known->admitted *= profiled;
    known->sampler_cpu *= profiled;
    known->action_cpu *= profiled;
}

static void replace(struct budget_state *state, const struct budget_load *load, uint32_t cycles)
{
    state->usual = *load;
    state->usual_cycles = cycles;
    state->usual_since = 0;
}

/* Dearer or cheaper by more than chance would have it, over any of these spans? */
static void compare(struct budget_state *state)
{
    double usual = cost_dearness(state, &state->usual);
    for (uint32_t cycles = 1; cycles <= LONGEST_LOOK && cycles < state->usual_cycles; cycles *= 2) {
        struct budget_load mean = usual_recent(state, cycles);
        double dearness = cost_dearness(state, &mean),
               most = fmax(chance(state->usual.admitted * cycles), ALIKE);
        if (dearness > usual * most || (cycles >= CHEAPER_LOOK && dearness * most < usual)) {
            replace(state, &mean, cycles);
            return;
        }
    }
}

void usual_learn(struct budget_state *state, const struct budget_asked *asked)
{
    struct budget_load newest = cost_load(state, cost_last(state));
    if (state->usual_cycles == 0) {
        struct budget_load mean = usual_recent(state, USUAL_RECENT);
        replace(state, &mean, 1);
        return;
    }
    if (is_another_demand(&state->usual, &newest)) {
        follow_demand(&state->usual, asked, &newest);
        state->usual_cycles = 1;
        state->usual_since = 0;
    }
    if (state->usual_cycles < USUAL_CYCLES)
        state->usual_cycles++;
    if (state->usual_since < BUDGET_CYCLES)
        state->usual_since++;
    /* Later cycles weigh more: what it began with was reckoned from another load, and is soon forgotten. */
    state->usual = cost_mean(&newest, 2.0 / (state->usual_cycles + 1), &state->usual);
    compare(state);
}

bool usual_settled(const struct budget_state *state)
{
    return state->usual_since >= BUDGET_CYCLES;
}

double usual_doubt(const struct budget_state *state)
{
    return 1 / sqrt(fmax(WEIGHTED * state->usual.admitted * state->usual_cycles, 1));
}
