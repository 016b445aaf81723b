/* What the profiler may do next: see budget.h. */
#include "aggregator/budget.h"

#include <math.h>
#include <string.h>

#include "shm/rates.h"

#define LEAST_WORK 0.004  /* less is a pause */
#define RAISE 1.2         /* most a cycle */
#define CLEAR_ROOM 1.1    /* a raise needs this much more than is in use */
#define METHOD_BELOW 0.12 /* of full work: stacks by method */
#define FILE_BELOW 0.10   /* stacks by file */
#define START_CYCLES 3    /* cycles after the first worker attached from which nothing is learnt */
#define FINER_AGAIN 1.25  /* times the bound, before stacks become finer again */

static double cost_of(const struct budget_measure *m)
{
    return m->sampler_cpu + m->hook_cpu + m->aggregator_cpu;
}

/* Totals of the newest `cycles` cycles. */
static struct budget_measure sum_of(const struct budget_state *state, uint32_t cycles)
{
    struct budget_measure sum = {0};
    for (uint32_t i = 1; i <= cycles && i <= state->cycles; i++) {
        const struct budget_measure *m = &state->cycle[(state->next + BUDGET_CYCLES - i) % BUDGET_CYCLES];
        sum.seconds += m->seconds;
        sum.sampler_cpu += m->sampler_cpu;
        sum.hook_cpu += m->hook_cpu;
        sum.aggregator_cpu += m->aggregator_cpu;
        sum.worker_cpu += m->worker_cpu;
        sum.attached += m->attached;
        sum.demand += m->demand;
    }
    return sum;
}

double budget_overhead(const struct budget_state *state)
{
    struct budget_measure sum = sum_of(state, BUDGET_CYCLES);
    double against = fmax(sum.worker_cpu, BUDGET_FLOOR * sum.attached);
    return against > 0 ? cost_of(&sum) / against : 0;
}

/* How much work (1 = all) the next cycle may do; negative where not even the fixed costs fit. */
static double affordable(const struct budget_state *state, const struct budget_asked *asked)
{
    struct budget_measure kept = sum_of(state, BUDGET_CYCLES - 1), last = sum_of(state, 1);
    struct budget_measure three = sum_of(state, 3);
    double n = fmin(3, state->cycles);
    double target = BUDGET_TARGET * asked->max_overhead;
    /* Load may fall: of the recent cycles' mean and the last one count on the smaller. */
    double worker_next = fmin(last.worker_cpu, three.worker_cpu / n);
    double floor_next = BUDGET_FLOOR * last.attached;
    double allowed = target * fmax(kept.worker_cpu + worker_next, BUDGET_FLOOR * kept.attached + floor_next) -
                     cost_of(&kept);
    /* In what comes before the promise begins, starting up must not use up all. */
    double floor = state->floor_cpu * last.seconds;
    if (state->cycles < BUDGET_CYCLES)
        allowed = fmax(allowed, target * fmax(worker_next, floor_next));
    double left = (allowed - floor) / last.seconds;
    /* Down to 1 / BUDGET_LONGEST of the work all actions are still admitted; below, their number is in
     * proportion. */
    if (left >= state->action_cpu + state->sampler_cpu / BUDGET_LONGEST)
        return state->sampler_cpu > 0 ? (left - state->action_cpu) / state->sampler_cpu : 1.0;
    return left / (state->sampler_cpu + state->action_cpu * BUDGET_LONGEST);
}

/* The share of the actions asked for that is admitted with this much work. */
static double admitted_share(double work)
{
    return fmin(1.0, work * BUDGET_LONGEST);
}

/*
 * What work costs. The samplers' cost is in proportion to it. What hooks and aggregator cost more than when
 * nothing is profiled (the floor) is in proportion to the admitted actions. Where no cycle without any was
 * seen the floor counts as theirs: then a step misses by some, and the next one, which starts from there, by
 * less.
 */
static void learn(struct budget_state *state, const struct budget_measure *measure)
{
    double seconds = fmax(measure->seconds, 0.001);
    double rest = (measure->hook_cpu + measure->aggregator_cpu) / seconds;
    if (measure->admitted < 1 && measure->sampler_cpu < 1e-6) {
        state->floor_cpu = state->floor_cpu > 0 ? 0.5 * (state->floor_cpu + rest) : rest;
        return;
    }
    if (rest < state->floor_cpu)
        state->floor_cpu = rest;
    if (state->work <= 0)
        return;
    state->sampler_cpu = fmax(measure->sampler_cpu / seconds / state->work, 0.7 * state->sampler_cpu);
    state->action_cpu =
        fmax((rest - state->floor_cpu) / admitted_share(state->work), 0.7 * state->action_cpu);
}

static void set_work(struct budget_state *state, double can)
{
    if (can < state->work) {
        state->work = can < LEAST_WORK ? 0 : can;
    } else if (state->work <= 0) {
        /* Out of a pause carefully: what the samplers will cost now is only remembered. */
        if (can > 4 * LEAST_WORK)
            state->work = fmin(can / 2, 1 / BUDGET_LONGEST);
    } else if (can > CLEAR_ROOM * state->work) {
        state->work = fmin(fmin(state->work * RAISE, can), 1.0);
    }
}

static uint32_t granularity_for(const struct budget_state *state, uint32_t asked)
{
    double method = METHOD_BELOW, file = FILE_BELOW;
    if (state->granularity < GRANULARITY_LINE)
        method *= FINER_AGAIN;
    if (state->granularity < GRANULARITY_METHOD)
        file *= FINER_AGAIN;
    uint32_t able = state->work < file     ? GRANULARITY_FILE
                    : state->work < method ? GRANULARITY_METHOD
                                           : GRANULARITY_LINE;
    return able < asked ? able : asked;
}

/* Hooks that count without profiling are the last cost that can be shed. */
static bool pass_through(struct budget_state *state, const struct budget_asked *asked)
{
    struct budget_measure sum = sum_of(state, BUDGET_CYCLES);
    if (state->pass_for > 0)
        return --state->pass_for > 0;
    bool over = budget_overhead(state) > asked->max_overhead;
    if (state->paused_for < BUDGET_CYCLES || !over || sum.hook_cpu < 0.5 * cost_of(&sum)) {
        if (!over && state->paused_for == 0)
            state->pass_hold = 0;
        return false;
    }
    state->pass_hold = state->pass_hold == 0 ? 30 : state->pass_hold < 150 ? 2 * state->pass_hold : 300;
    state->pass_for = state->pass_hold;
    return true;
}

void budget_resume(struct budget_state *state, const struct budget_asked *asked, uint64_t interval_ns,
                   uint32_t granularity)
{
    state->started = true;
    state->work = fmin(1.0, (double)asked->interval_ns / (double)interval_ns);
    state->granularity = granularity;
}

/*
 * The promise is for windows that begin 10 s after the first worker attached. What was spent before, on
 * starting, beyond the target must not be earned back by profiling less afterwards: it is remembered as the
 * target.
 */
static struct budget_measure without_start(const struct budget_measure *measure,
                                           const struct budget_asked *asked)
{
    struct budget_measure m = *measure;
    double most = BUDGET_TARGET * asked->max_overhead * fmax(m.worker_cpu, BUDGET_FLOOR * m.attached);
    double cost = cost_of(&m);
    if (cost > most) {
        m.sampler_cpu *= most / cost;
        m.hook_cpu *= most / cost;
        m.aggregator_cpu *= most / cost;
    }
    return m;
}

void budget_step(struct budget_state *state, const struct budget_asked *asked,
                 const struct budget_measure *measure, struct budget_limits *limits)
{
    if (!state->started) {
        state->started = true;
        state->work = 1.0;
        state->granularity = asked->granularity;
    }
    if (measure->attached > 0 || state->cycles > 0) {
        bool starting = state->cycles < BUDGET_CYCLES;
        state->cycle[state->next] = starting ? without_start(measure, asked) : *measure;
        state->next = (state->next + 1) % BUDGET_CYCLES;
        if (starting)
            state->cycles++;
        /* What it cost to start is no sign of what it costs to run. */
        if (state->cycles > START_CYCLES) {
            learn(state, measure);
            /* With nothing profiled there is nothing to learn: keep the work where it was for the next spike.
             */
            double can = affordable(state, asked);
            if (measure->admitted >= 1 || can < state->work || state->work <= 0)
                set_work(state, can);
        }
    }
    state->paused_for = state->work <= 0 ? state->paused_for + 1 : 0;
    state->granularity = granularity_for(state, asked->granularity);

    double longer = state->work > 0 ? fmin(1 / state->work, BUDGET_LONGEST) : BUDGET_LONGEST;
    double fewer = admitted_share(fmax(state->work, LEAST_WORK));
    *limits = (struct budget_limits){
        .interval_ns = (uint64_t)((double)asked->interval_ns * longer),
        .granularity = state->granularity,
        .cap = asked->cap,
        .passthrough = pass_through(state, asked),
    };
    limits->paused = state->work <= 0 || limits->passthrough;
    if (fewer < 1.0) {
        double most = asked->cap != 0 ? asked->cap : fmax(measure->demand, 1);
        limits->cap = (uint32_t)fmax(1, floor(most * fewer));
    }
}
