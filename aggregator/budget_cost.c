/* What work costs: see budget_cost.h. */
#include "aggregator/budget_cost.h"

#include <math.h>
#include <stdlib.h>

#define SPIKE_FADES 0.98 /* a cycle: half in some 35 s */
#define IDLE_SLOWLY 0.01 /* a cycle, how fast a least cost is forgotten: at rest … */
#define BUSY_SLOWLY 0.05 /* … and while there is load */
#define MERGE_CPU 20e-6  /* s: the least that a profiled action costs the aggregator */
#define BUSY_ALONE 0.5   /* … of which it tells best … */
#define ALONE 0.1        /* … where profiled actions can have cost no more than this part of it */
enum {
    TELLING = 5, /* profiled actions from which a cycle by itself tells what sampling costs */
};

uint32_t cost_last(const struct budget_state *state)
{
    return (state->next + BUDGET_CYCLES - 1) % BUDGET_CYCLES;
}

double cost_of(const struct budget_measure *m)
{
    return m->sampler_cpu + m->hook_cpu + m->aggregator_cpu;
}

double cost_share(double work)
{
    return fmin(1.0, work * BUDGET_LONGEST);
}

void cost_note(struct budget_state *state, const struct budget_asked *asked, double unbraked)
{
    uint32_t last = cost_last(state);
    const struct budget_measure *m = &state->seen[last];
    double share = cost_share(state->work) * unbraked;
    /* Without a cap it is known what was admitted; of a cap the lottery uses a part. */
    if (asked->cap == 0 && m->demand >= 1 && m->admitted < share * m->demand)
        share = m->admitted / m->demand;
    bool profiled = state->work > 0 && (m->admitted >= 1 || m->sampler_cpu > 0);
    state->share[last] = profiled ? share : 0;
    state->exposure[last] = profiled ? fmax(state->work, 1 / BUDGET_LONGEST) * share : 0;
}

static bool is_busy(const struct budget_load *load)
{
    return load->demand >= 1;
}

struct budget_load cost_load(const struct budget_state *state, uint32_t index)
{
    const struct budget_measure *m = &state->seen[index];
    double seconds = fmax(m->seconds, 0.001);
    struct budget_load load = {
        .worker_cpu = m->worker_cpu / seconds,
        .attached = m->attached / seconds,
        .demand = m->demand / seconds,
    };
    if (state->exposure[index] > 0) {
        load.sampler_cpu = m->sampler_cpu / seconds;
        load.exposure = state->exposure[index];
        load.action_cpu = fmax((m->hook_cpu + m->aggregator_cpu) / seconds - cost_fixed(state, &load), 0);
        load.share = state->share[index];
        load.admitted = m->admitted / seconds;
    }
    return load;
}

struct budget_load cost_mean(const struct budget_load *a, double of_a, const struct budget_load *b)
{
    double of_b = 1 - of_a;
    return (struct budget_load){
        .worker_cpu = a->worker_cpu * of_a + b->worker_cpu * of_b,
        .attached = a->attached * of_a + b->attached * of_b,
        .demand = a->demand * of_a + b->demand * of_b,
        .sampler_cpu = a->sampler_cpu * of_a + b->sampler_cpu * of_b,
        .exposure = a->exposure * of_a + b->exposure * of_b,
        .action_cpu = a->action_cpu * of_a + b->action_cpu * of_b,
        .share = a->share * of_a + b->share * of_b,
        .admitted = a->admitted * of_a + b->admitted * of_b,
    };
}

double cost_fixed(const struct budget_state *state, const struct budget_load *load)
{
    return (is_busy(load) ? state->busy_cpu : state->idle_cpu) + state->hook_cpu * load->demand;
}

double cost_sampling(const struct budget_state *state, const struct budget_load *load)
{
    return load->exposure > 0 ? load->sampler_cpu / load->exposure : state->sampler_cpu;
}

double cost_actions(const struct budget_state *state, const struct budget_load *load)
{
    return load->share > 0 ? load->action_cpu / load->share : state->action_cpu;
}

double cost_at(const struct budget_state *state, const struct budget_load *load, double work)
{
    double share = cost_share(work), exposure = fmax(work, 1 / BUDGET_LONGEST) * share;
    return cost_fixed(state, load) + cost_actions(state, load) * share +
           cost_sampling(state, load) * exposure;
}

double cost_dearness(const struct budget_state *state, const struct budget_load *load)
{
    return cost_at(state, load, state->work) / fmax(load->worker_cpu, BUDGET_FLOOR * load->attached);
}

/* The least of what was seen, slowly forgotten. */
static double least_of(double least, double seen, double slowly)
{
    return least <= 0 || seen < least ? seen : least + slowly * (seen - least);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double cost_remembered(const struct budget_state *state)
{
    double known[BUDGET_MEMORY];
    size_t n = 0;
    for (size_t i = 0; i < BUDGET_MEMORY; i++)
        if (state->memory[i] > 0)
            known[n++] = state->memory[i];
    qsort(known, n, sizeof *known, by_size);
    return n == 0 ? 0 : known[n - 1 - n / 20];
}

static void remember(struct budget_state *state, double sampler_cpu)
{
    if (++state->memory_cycles > BUDGET_CYCLES) {
        state->memory_cycles = 1;
        state->memory_at = (state->memory_at + 1) % BUDGET_MEMORY;
        state->memory[state->memory_at] = 0;
    }
    state->memory[state->memory_at] = fmax(state->memory[state->memory_at], sampler_cpu);
}

void cost_learn(struct budget_state *state, const struct budget_measure *measure,
                const struct budget_load *recent)
{
    uint32_t last = cost_last(state);
    double seconds = fmax(measure->seconds, 0.001);
    double looking = fmax(measure->aggregator_cpu - measure->admitted * MERGE_CPU, 0) / seconds;
    state->idle_cpu = least_of(state->idle_cpu, looking, IDLE_SLOWLY);
    if (measure->demand >= 1) {
        double plain = fmax(measure->hook_cpu - measure->admitted * COST_ACTION_CPU, 0) / measure->demand;
        /* Where next to nothing was profiled all of it is for looking; the pace of that changes. */
        bool alone = measure->admitted * COST_ACTION_CPU < ALONE * looking * seconds;
        state->busy_cpu =
            fmax(state->idle_cpu, least_of(state->busy_cpu, looking, alone ? BUSY_ALONE : BUSY_SLOWLY));
        /* Only where nearly all were not profiled does it show what one of those costs. */
        if (measure->admitted * 100 <= measure->demand)
            state->hook_cpu = least_of(state->hook_cpu, measure->hook_cpu / measure->demand, IDLE_SLOWLY);
        else if (plain < state->hook_cpu)
            state->hook_cpu = plain;
    }
    state->spike_cpu *= SPIKE_FADES;
    if (state->exposure[last] <= 0) {
        remember(state, 0);
        return;
    }
    struct budget_load newest = cost_load(state, last);
    double sampler_cpu = cost_sampling(state, measure->admitted >= TELLING ? &newest : recent);
    state->sampler_cpu = cost_sampling(state, recent);
    state->action_cpu = cost_actions(state, recent);
    state->each_action_cpu = recent->admitted > 0 ? recent->action_cpu / recent->admitted : 0;
    state->spike_cpu = fmax(state->spike_cpu, sampler_cpu);
    remember(state, sampler_cpu);
}
