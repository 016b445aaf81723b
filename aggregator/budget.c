/* What the profiler may do next: see budget.h. */
#include "aggregator/budget.h"

#include <math.h>
#include <string.h>

#include "shm/rates.h"

#define LEAST_WORK 0.01   /* at most; less is a pause */
#define RAISE 1.2         /* most a cycle */
#define CLEAR_ROOM 1.1    /* a raise needs this much more than is in use */
#define METHOD_BELOW 0.12 /* of full work: stacks by method */
#define FILE_BELOW 0.10   /* stacks by file */
#define START_CYCLES 3    /* cycles after the first worker attached from which nothing is learnt */
#define PASS_AFTER 4      /* paused cycles in which hooks alone were too dear */
#define FINER_AGAIN 1.25  /* times the bound, before stacks become finer again */
#define SPIKE_SHARE 0.5   /* of what is left in the window, that the first cycle of a spike may cost */
#define SAVED_SHARE 0.3   /* of what earlier cycles saved, that the next one may cost */
#define IDLE_SHARE 0.3    /* of what an idle cycle is allowed, that it is taken to cost at most */
#define SPIKE_FADES 0.98  /* a cycle: half in some 35 s */
#define GUARD_LEAST 0.15  /* while there is load, fear of a spike costs no more than a longer interval */
#define SLOWLY 0.01       /* a cycle, how fast a least cost is forgotten */
#define TICK_CPU 30e-6    /* s: what a tick and a profiled action are taken to cost before any was seen */
#define ACTION_CPU 100e-6

const char *budget_reason_text(enum budget_reason reason)
{
    static const char *const text[BUDGET_REASONS] = {
        [BUDGET_STARTING] = "too early to judge by what was measured",
        [BUDGET_FITS] = "all that is asked for fits",
        [BUDGET_FULL] = "as much as fits into the budget",
        [BUDGET_TOO_DEAR] = "less: what it cost would not fit into the budget",
        [BUDGET_SPIKE] = "held back for a load as dear as one of late",
        [BUDGET_ROOM] = "more: there is room in the budget",
        [BUDGET_IDLE] = "idle, held ready for a return of the load",
        [BUDGET_SPENT] = "paused: not one profiled action fits into the budget",
        [BUDGET_HOOKS_ALONE] = "actions let through uncounted: counting alone passed the budget",
        [BUDGET_TAKEN_OVER] = "as the aggregator before this one left them",
    };
    return text[reason < BUDGET_REASONS ? reason : BUDGET_STARTING];
}

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

/* The share of the actions asked for that is admitted with this much work. */
static double admitted_share(double work)
{
    return fmin(1.0, work * BUDGET_LONGEST);
}

/* What a second of a cycle is expected to be like. */
struct expected {
    double worker_cpu, attached, demand;
    double sampler_cpu, action_cpu; /* at full work */
};

static double fixed_cpu(const struct budget_state *state, double demand)
{
    return state->idle_cpu + state->hook_cpu * demand;
}

/* The part of the actions asked for that was admitted. Without a cap it is known; of a cap only some is used.
 */
static double share_in(const struct budget_state *state, const struct budget_asked *asked, uint32_t index)
{
    const struct budget_measure *m = &state->seen[index];
    double share = admitted_share(state->did[index]);
    if (asked->cap == 0 && m->demand >= 1 && m->admitted < share * m->demand)
        share = m->admitted / m->demand;
    return share;
}

static struct expected seen_in(const struct budget_state *state, const struct budget_asked *asked,
                               uint32_t index)
{
    const struct budget_measure *m = &state->seen[index];
    double seconds = fmax(m->seconds, 0.001), work = state->did[index];
    struct expected seen = {
        .worker_cpu = m->worker_cpu / seconds,
        .attached = m->attached / seconds,
        .demand = m->demand / seconds,
        .sampler_cpu = state->sampler_cpu,
        .action_cpu = state->action_cpu,
    };
    if (work > 0) {
        double rest = (m->hook_cpu + m->aggregator_cpu) / seconds - fixed_cpu(state, seen.demand);
        double share = share_in(state, asked, index);
        seen.sampler_cpu = m->sampler_cpu / seconds / fmax(work, 1 / BUDGET_LONGEST) / share;
        seen.action_cpu = fmax(rest, 0) / share;
    }
    return seen;
}

/*
 * CPU that the next second may cost beyond the fixed costs, so that it and the newest `kept` cycles pay for
 * themselves in a window that is idle otherwise.
 */
static double room_beside(const struct budget_state *state, const struct budget_asked *asked,
                          const struct expected *next, uint32_t kept)
{
    struct budget_measure sum = sum_of(state, kept);
    double least = BUDGET_FLOOR * (sum_of(state, BUDGET_CYCLES - 1).attached + next->attached);
    double target = BUDGET_TARGET * asked->max_overhead;
    /* A pool that never idled has not shown how little that costs. */
    double idle = fmin(state->idle_cpu, IDLE_SHARE * target * BUDGET_FLOOR * next->attached) *
                  (BUDGET_CYCLES - 1 - kept);
    return target * fmax(sum.worker_cpu + next->worker_cpu, least) - cost_of(&sum) - idle -
           fixed_cpu(state, next->demand);
}

/*
 * CPU that a second of the next cycle may spend on profiling; negative where not even the fixed costs fit.
 * Any number of the newest cycles may be all that a later window holds beside idle ones. What was saved is
 * not spent at once.
 */
static double room_for(const struct budget_state *state, const struct budget_asked *asked,
                       const struct expected *next)
{
    double even =
        BUDGET_TARGET * asked->max_overhead * fmax(next->worker_cpu, BUDGET_FLOOR * next->attached) -
        fixed_cpu(state, next->demand);
    /* In what comes before the promise begins, starting up must not use up all. */
    if (state->cycles < BUDGET_CYCLES)
        return even;
    double least = INFINITY;
    for (uint32_t kept = 0; kept < BUDGET_CYCLES; kept++)
        least = fmin(least, room_beside(state, asked, next, kept));
    return least > even ? even + SAVED_SHARE * (least - even) : least;
}

/* How much work (1 = all) fits into a second of a cycle that is like this. */
static double affordable(const struct budget_state *state, const struct budget_asked *asked,
                         const struct expected *next)
{
    double room = room_for(state, asked, next);
    /* Down to 1 / BUDGET_LONGEST of the work all actions are still admitted; below, their number is in
     * proportion. */
    if (room >= next->action_cpu + next->sampler_cpu / BUDGET_LONGEST)
        return next->sampler_cpu > 0 ? (room - next->action_cpu) / next->sampler_cpu : 1.0;
    return room / (next->sampler_cpu + next->action_cpu * BUDGET_LONGEST);
}

/* The last cycle, and the mean of those of the last three that say anything: whichever allows less. */
static double affordable_now(const struct budget_state *state, const struct budget_asked *asked)
{
    uint32_t last = (state->next + BUDGET_CYCLES - 1) % BUDGET_CYCLES;
    struct expected newest = seen_in(state, asked, last), mean = {0};
    double n = 0;
    for (uint32_t i = 0; i < 3 && i < state->cycles; i++) {
        uint32_t index = (last + BUDGET_CYCLES - i) % BUDGET_CYCLES;
        if (i != 0 && state->did[index] <= 0)
            continue;
        struct expected one = seen_in(state, asked, index);
        mean.worker_cpu += one.worker_cpu;
        mean.attached += one.attached;
        mean.demand += one.demand;
        mean.sampler_cpu += one.sampler_cpu;
        mean.action_cpu += one.action_cpu;
        n++;
    }
    mean = (struct expected){mean.worker_cpu / n, mean.attached / n, mean.demand / n, mean.sampler_cpu / n,
                             mean.action_cpu / n};
    return fmin(affordable(state, asked, &newest), affordable(state, asked, &mean));
}

/* The work with which the most expensive load known would use SPIKE_SHARE of what is left, if it came now. */
static double ready_for_spike(const struct budget_state *state, const struct budget_asked *asked)
{
    struct expected next = seen_in(state, asked, (state->next + BUDGET_CYCLES - 1) % BUDGET_CYCLES);
    double guess = next.attached * TICK_CPU * 1e9 / (double)asked->interval_ns;
    double spike = state->spike_cpu > 0 ? fmax(state->spike_cpu, guess / 4) : guess;
    double room = room_beside(state, asked, &next, BUDGET_CYCLES - 1);
    return spike > 0 ? SPIKE_SHARE * room / spike : INFINITY;
}

/* The least of what was seen, slowly forgotten. */
static double least_of(double least, double seen)
{
    return least <= 0 || seen < least ? seen : least + SLOWLY * (seen - least);
}

/*
 * What work costs. The samplers' cost is in proportion to it. What hooks and aggregator cost more than they
 * must (the aggregator at rest, hooks of actions that are not profiled) is in proportion to the admitted
 * actions. Where no such cycle was seen yet all of it counts as theirs: then a step misses by some, and the
 * next one, which starts from there, by less.
 */
static void learn(struct budget_state *state, const struct budget_asked *asked,
                  const struct budget_measure *measure)
{
    uint32_t last = (state->next + BUDGET_CYCLES - 1) % BUDGET_CYCLES;
    double seconds = fmax(measure->seconds, 0.001);
    state->idle_cpu = least_of(state->idle_cpu, measure->aggregator_cpu / seconds);
    if (measure->demand >= 1) {
        double plain = fmax(measure->hook_cpu - measure->admitted * ACTION_CPU, 0) / measure->demand;
        /* Only where nearly all were not profiled does it show what one of those costs. */
        if (measure->admitted * 100 <= measure->demand)
            state->hook_cpu = least_of(state->hook_cpu, measure->hook_cpu / measure->demand);
        else if (plain < state->hook_cpu)
            state->hook_cpu = plain;
    }
    state->spike_cpu *= SPIKE_FADES;
    if (state->did[last] <= 0)
        return;
    struct expected seen = seen_in(state, asked, last);
    state->sampler_cpu = seen.sampler_cpu;
    state->action_cpu = seen.action_cpu;
    state->spike_cpu = fmax(state->spike_cpu, seen.sampler_cpu);
    double each = seen.action_cpu * share_in(state, asked, last) * seconds / measure->admitted;
    state->each_action_cpu = fmax(each, 0.9 * state->each_action_cpu);
}

static double least_work(const struct budget_asked *asked, const struct budget_measure *measure)
{
    /* One action a cycle; there is no less but none. */
    double most = asked->cap != 0 ? asked->cap : fmax(measure->demand, 1);
    return fmin(1 / BUDGET_LONGEST / most, LEAST_WORK);
}

static void set_work(struct budget_state *state, double can, double least)
{
    double before = state->work;
    if (can < state->work) {
        state->work = can < least ? 0 : can;
    } else if (state->work <= 0) {
        /* Out of a pause carefully: what the samplers will cost now is only remembered. */
        if (can > 1.5 * least)
            state->work = fmin(fmax(can / 2, least), 1 / BUDGET_LONGEST);
    } else if (can > CLEAR_ROOM * state->work) {
        state->work = fmin(fmin(state->work * RAISE, can), 1.0);
    }
    state->reason = state->work <= 0       ? BUDGET_SPENT
                    : state->work < before ? BUDGET_TOO_DEAR
                    : state->work > before ? BUDGET_ROOM
                    : state->work < 1      ? BUDGET_FULL
                                           : BUDGET_FITS;
}

static void decide(struct budget_state *state, const struct budget_asked *asked,
                   const struct budget_measure *measure)
{
    double least = least_work(asked, measure), ready = ready_for_spike(state, asked);
    bool profiled = state->did[(state->next + BUDGET_CYCLES - 1) % BUDGET_CYCLES] > 0;
    if (state->cycles < BUDGET_CYCLES) {
        if (profiled || state->work <= 0)
            set_work(state, affordable_now(state, asked), least);
    } else if (measure->demand < 1 && !profiled) {
        /* Idle: nothing is spent, so it may be held ready at once. */
        state->work = ready < least ? 0 : fmin(ready, 1.0);
        state->reason = state->work <= 0 ? BUDGET_SPENT : state->work < 1 ? BUDGET_IDLE : BUDGET_FITS;
    } else if (profiled || state->work <= 0) {
        double affords = affordable_now(state, asked), guarded = fmax(ready, GUARD_LEAST);
        set_work(state, fmin(affords, guarded), least);
        if (guarded < affords && (state->reason == BUDGET_TOO_DEAR || state->reason == BUDGET_FULL))
            state->reason = BUDGET_SPIKE;
    }
}

/* Without a cap of the application's: as many actions as a cycle can pay for, should so many come at once. */
static uint32_t payable(const struct budget_state *state, const struct budget_asked *asked)
{
    struct expected next = seen_in(state, asked, (state->next + BUDGET_CYCLES - 1) % BUDGET_CYCLES);
    double each = state->each_action_cpu > 0 ? state->each_action_cpu : ACTION_CPU;
    double room = room_beside(state, asked, &next, BUDGET_CYCLES - 1) -
                  state->work * fmax(next.sampler_cpu, state->spike_cpu);
    return (uint32_t)fmin(fmax(SPIKE_SHARE * room / each, 1), 1e9);
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
static bool pass_through(struct budget_state *state, const struct budget_asked *asked,
                         const struct budget_measure *measure)
{
    if (state->pass_for > 0)
        return --state->pass_for > 0;
    double against = fmax(measure->worker_cpu, BUDGET_FLOOR * measure->attached);
    bool over = state->paused_for > 0 && cost_of(measure) > asked->max_overhead * against &&
                measure->hook_cpu > 0.5 * cost_of(measure);
    state->over_for = over ? state->over_for + 1 : 0;
    if (state->over_for < PASS_AFTER) {
        if (state->paused_for == 0)
            state->pass_hold = 0;
        return false;
    }
    state->over_for = 0;
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
    /* Without workers nothing is spent and nothing learnt: those that come find what was left. */
    if (measure->attached > 0) {
        bool starting = state->cycles < BUDGET_CYCLES;
        state->cycle[state->next] = starting ? without_start(measure, asked) : *measure;
        state->seen[state->next] = *measure;
        state->did[state->next] = measure->admitted >= 1 ? state->work : 0;
        state->next = (state->next + 1) % BUDGET_CYCLES;
        if (starting)
            state->cycles++;
        /* What it cost to start is no sign of what it costs to run. */
        if (state->cycles > START_CYCLES) {
            learn(state, asked, measure);
            decide(state, asked, measure);
        }
    }
    state->paused_for = state->work <= 0 ? state->paused_for + 1 : 0;
    state->granularity = granularity_for(state, asked->granularity);

    double longer = state->work > 0 ? fmin(1 / state->work, BUDGET_LONGEST) : BUDGET_LONGEST;
    double fewer = admitted_share(state->work > 0 ? state->work : LEAST_WORK);
    *limits = (struct budget_limits){
        .interval_ns = (uint64_t)((double)asked->interval_ns * longer),
        .granularity = state->granularity,
        .cap = asked->cap,
        .passthrough = pass_through(state, asked, measure),
    };
    limits->paused = state->work <= 0 || limits->passthrough;
    limits->reason = limits->passthrough ? BUDGET_HOOKS_ALONE : state->reason;
    if (fewer < 1.0) {
        double most = asked->cap != 0 ? asked->cap : fmax(measure->demand, 1);
        limits->cap = (uint32_t)fmax(1, floor(most * fewer));
    }
    if (asked->cap == 0 && state->cycles == BUDGET_CYCLES) {
        uint32_t most = payable(state, asked);
        if (limits->cap == 0 || limits->cap > most)
            limits->cap = most;
    }
}
