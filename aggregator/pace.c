/* How often the service looks: see pace.h. */
#include "aggregator/pace.h"

#include <math.h>

enum {
    NORMAL_MS = 100,
    QUIET_MS = 250,  /* workers are there, but nothing moves, or nothing that presses */
    ALONE_MS = 1000, /* no worker */
    /* So many are looked at less often: looking is then most of what they cost, and their lanes hold 20 s. */
    MANY_WORKERS = 250,
    MANY_MS = 400,
    QUIET_ROUNDS = 5,
    CYCLES_KNOWN = 2, /* the first one is mostly starting */
    STEPS = 3,        /* of retreat: 100, 250, 500, 1000 ms */
};
#define OWN_SHARE 0.25 /* of a pool's budget, beyond which rounds come less often */
#define OWN_AGAIN                                                                                            \
    0.35 /* of that, below which they come more often again: a step costs at most 2.5 times as much */
#define AT_EASE 0.25    /* of a pool's budget, below which nothing presses, */
#define PRESSED 0.5     /*   until this */
#define MERGING 0.5     /* of what a profiled action costs: the aggregator's part */
#define FILL_EARLY 0.25 /* lanes fuller than this are drained more often */

static const struct budget_measure *last_of(const struct budget_state *state)
{
    return &state->cycle[(state->next + BUDGET_CYCLES - 1) % BUDGET_CYCLES];
}

static double budget_of(const struct budget_measure *measure, const struct budget_asked *asked)
{
    return asked->max_overhead * fmax(measure->worker_cpu, BUDGET_FLOOR * measure->attached);
}

double pace_own(const struct budget_state *state, const struct budget_asked *asked)
{
    const struct budget_measure *last = last_of(state);
    double against = budget_of(last, asked) * OWN_SHARE;
    /* Merging what was profiled costs the same however often it is looked for. */
    double looking = last->aggregator_cpu - MERGING * last->admitted * state->each_action_cpu;
    return against > 0 ? fmax(looking, 0) / against : 0;
}

double pace_spent(const struct budget_state *state, const struct budget_asked *asked)
{
    const struct budget_measure *last = last_of(state);
    double budget = budget_of(last, asked);
    double spent = last->sampler_cpu + last->hook_cpu + last->aggregator_cpu;
    return budget > 0 && state->cycles >= CYCLES_KNOWN ? spent / budget : 1;
}

unsigned pace_next(struct pace *pace, const struct pace_facts *facts)
{
    static const unsigned step_ms[STEPS + 1] = {NORMAL_MS, 250, 500, 1000};
    pace->quiet_rounds = facts->moved ? 0 : pace->quiet_rounds + 1;
    if (facts->cycle && facts->own > 1 && pace->step < STEPS)
        pace->step++;
    else if (facts->cycle && facts->own < OWN_AGAIN && pace->step > 0)
        pace->step--;
    if (facts->cycle)
        pace->at_ease = facts->spent < (pace->at_ease ? PRESSED : AT_EASE);
    if (facts->fill > FILL_EARLY)
        return pace->ms = pace->ms / 2 > PACE_SHORTEST_MS ? pace->ms / 2 : PACE_SHORTEST_MS;
    bool quiet = pace->quiet_rounds > QUIET_ROUNDS;
    unsigned least = quiet                             ? (facts->attached == 0 ? ALONE_MS : QUIET_MS)
                     : facts->attached >= MANY_WORKERS ? MANY_MS
                     : pace->at_ease                   ? QUIET_MS
                                                       : NORMAL_MS;
    return pace->ms = step_ms[pace->step] > least ? step_ms[pace->step] : least;
}
