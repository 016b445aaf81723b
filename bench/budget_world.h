/*
 * World: a pool of workers under load that exists in numbers only, around the real controller (budget.h) and
 * the real admission (admission.h).
 *
 * Time goes in steps of WORLD_STEP_S. In each, requests come by chance for each endpoint, are drawn for
 * profiling and take tokens as shm/budget.h gives them, arm samplers for as long as they last, and cost what
 * such things cost on a slow machine. The aggregator looks at what workers have published (a step late), asks
 * the brake, and decides once a second. Everything follows from the scenario and the seed.
 *
 * What is true and what the controller is told are kept apart: overhead is that of the world, in windows that
 * begin at any step.
 */
#ifndef BENCH_BUDGET_WORLD_H
#define BENCH_BUDGET_WORLD_H

#include <stdbool.h>
#include <stdint.h>

#include "aggregator/budget.h"

#define WORLD_STEP_S 0.1
enum {
    WORLD_STEPS_A_CYCLE = 10,
    WORLD_CYCLES_MOST = 3600,
};

enum world_lie {
    WORLD_HONEST,
    WORLD_CLAIMS_MUCH, /* one worker says that its sampler uses a core and a half; the kernel is asked */
    WORLD_UNCHECKED,   /* the same, and it is believed as far as that can be */
};

struct world_scenario {
    const char *name, *tells; /* what it is */
    unsigned workers;
    struct budget_asked asked;
    unsigned cycles;               /* s */
    double (*load)(double second); /* times `rate` */
    double rate;                   /* requests a second and worker */
    double stall; /* s that a request lasts in the first quarter of each hundred seconds but the first; 0: as
                     ever */
    double latency, cpu; /* s a request */
    unsigned endpoints;  /* with equal shares, but for … */
    double hot;          /* … the share of the first */
    enum world_lie lie;
    bool unbraked;      /* the brake is never asked: what it is good for */
    unsigned fallen_at; /* s: load has fallen for good, and the finest interval is affordable; 0: never */
    unsigned steady_at; /* s: from here on the load is steady; 0: never */
};

/** One second as it was. */
struct world_cycle {
    double load,
        overhead; /* overhead: the highest of a window of 10 s that ended in it, 0 before there is one */
    double demand, admitted;
    double ours_cpu, worker_cpu;
    struct budget_limits limits; /* at its end */
    bool braked;
};

/** Play a scenario through. `cycle` has room for its cycles. */
void world_play(const struct world_scenario *scenario, uint64_t seed, struct world_cycle *cycle);

/** The scenarios of the promise; NULL-terminated by name. */
extern const struct world_scenario world_scenarios[];

/** Can such a pool keep to its budget at all? Being looked at once a second is the least that it costs. */
bool world_feasible(const struct world_scenario *scenario);

/** The highest overhead of a window that counts, as a ratio. */
double world_worst(const struct world_scenario *scenario, const struct world_cycle *cycle);

/** The most that the interval leaves its own mean while the load is steady, as a ratio of the mean. */
double world_swing(const struct world_scenario *scenario, const struct world_cycle *cycle);

/** Seconds from `fallen_at` until the interval is the finest that it is at the end, for good. */
unsigned world_recovery(const struct world_scenario *scenario, const struct world_cycle *cycle);

#endif
