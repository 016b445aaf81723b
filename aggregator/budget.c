/* What the profiler may do next: see budget.h. */
#include "aggregator/budget.h"

#include <math.h>

#include "aggregator/admission.h"
#include "aggregator/budget_cost.h"
#include "aggregator/budget_usual.h"
#include "shm/rates.h"

#define EVEN_LEAST 0.70    /* of max_overhead: aimed at, so that chance seldom reaches BUDGET_TARGET … */
#define EVEN_MOST 0.82     /* … and where there are so many actions that there is hardly any */
#define EVEN_CHANCE 2.0    /* standard deviations of a window's number of actions */
#define LEAST_WORK 0.01    /* at most; less is a pause */
#define RAISE 1.2          /* most a cycle */
#define RAISE_ADMITTED 2.0 /* … of the number of actions, which the lottery raises slowly by itself */
#define CLEAR_ROOM 1.15    /* a raise needs this much more than is in use */
#define METHOD_BELOW 0.12  /* of full work: stacks by method */
#define FILE_BELOW 0.10    /* stacks by file */
#define START_CYCLES 3     /* cycles after the first worker attached from which nothing is learnt */
#define PASS_AFTER 4       /* paused cycles in which hooks alone were too dear */
#define HOOKS_MATTER 0.2   /* of the cost: less is not worth letting actions through for */
#define FINER_AGAIN 1.25   /* times the bound, before stacks become finer again */
#define SPIKE_SHARE 0.5    /* of what is left in the window, that a spike may cost until it is braked */
#define REACTION_S 0.5    /* until it is: the samplers tell of their CPU, it is read, and limits are obeyed */
#define BRAKE_TARGET 0.92 /* of max_overhead: what a window may cost that is braked */
#define BRAKE_SHARE 0.6   /* of what is left of it, for a cycle until it is braked */
#define STEADY 0.95       /* smaller cuts than to this are none */
#define USUAL_SHARE 0.1   /* of the newest cycle in what is usual */
#define LEAST_USED 0.4    /* of a cap by the lottery */
#define MARGINAL 0.1      /* of the fixed costs: less is hardly room */
#define WHOLE 0.86        /* of max_overhead: all that was asked for may cost so much */
#define DOUBT 3.0         /* standard errors of what it costs, within which nothing is changed: */
#define DOUBT_LEAST 0.02  /* … at least, and … */
#define DOUBT_MOST 0.1    /* … at most so much of what is aimed at */
#define USUAL_TIMES 2.0   /* what is usual of actions, for what may come at once */
#define MADE_GOOD 0.3     /* of what earlier cycles saved or spent too much, in the next one … */
#define DEEP 0.75         /* … unless less than so much of what is aimed at is left: then all of it */
#define IDLE_SHARE 0.3    /* of what an idle cycle is allowed, that it is taken to cost at most */
#define QUIET_MOST 10.0   /* actions that would have come, had the pool not become idle */
#define TICK_CPU 30e-6    /* s: what a tick and a profiled action are taken to cost before any was seen */

const char *budget_reason_text(enum budget_reason reason)
{
    static const char *const text[BUDGET_REASONS] = {
        [BUDGET_STARTING] = "too early to judge by what was measured",
        [BUDGET_FITS] = "all that is asked for fits",
        [BUDGET_FULL] = "as much as fits into the budget",
        [BUDGET_TOO_DEAR] = "less: what it cost would not fit into the budget",
        [BUDGET_ROOM] = "more: there is room in the budget",
        [BUDGET_IDLE] = "idle, held ready for a return of the load",
        [BUDGET_BRAKED] = "paused for the rest of a cycle that has spent what it may",
        [BUDGET_WAITS] = "paused: the last ten seconds have spent what they may",
        [BUDGET_SPENT] = "paused: not one profiled action fits into the budget",
        [BUDGET_HOOKS_ALONE] = "actions let through uncounted: counting alone passed the budget",
        [BUDGET_TAKEN_OVER] = "as the aggregator before this one left them",
    };
    return text[reason < BUDGET_REASONS ? reason : BUDGET_STARTING];
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

/*
 * CPU that the next second may cost beyond the fixed costs, so that it and the newest `kept` cycles pay for
 * themselves in a window that is idle otherwise.
 */
static double room_beside(const struct budget_state *state, const struct budget_asked *asked,
                          const struct budget_load *next, uint32_t kept)
{
    struct budget_measure sum = sum_of(state, kept);
    double least = BUDGET_FLOOR * (sum_of(state, BUDGET_CYCLES - 1).attached + next->attached);
    double target = BUDGET_TARGET * asked->max_overhead;
    /* A pool that never idled has not shown how little that costs. */
    double idle = fmin(state->idle_cpu, IDLE_SHARE * target * BUDGET_FLOOR * next->attached) *
                  (BUDGET_CYCLES - 1 - kept);
    return target * fmax(sum.worker_cpu + next->worker_cpu, least) - cost_of(&sum) - idle -
           cost_fixed(state, next);
}

/* What a second of this load may cost at the most. */
static double bound_of(const struct budget_asked *asked, const struct budget_load *load)
{
    return asked->max_overhead * fmax(load->worker_cpu, BUDGET_FLOOR * load->attached);
}

/* What profiling costs in a second of this load with so much work, beside what is spent in any case. */
static double profiling_at(const struct budget_state *state, const struct budget_load *load, double work)
{
    return cost_at(state, load, work) - cost_fixed(state, load);
}

/* How far chance in a window's number of actions takes what costs `profiling` a second. */
static double window_chance(const struct budget_state *state, double profiling)
{
    return EVEN_CHANCE * profiling / sqrt(fmax(state->usual.admitted * BUDGET_CYCLES, 1));
}

/* What a second like this may cost: less where a window has few profiled actions, and what they cost is a
 * matter of chance. */
static double even_cost(const struct budget_state *state, const struct budget_asked *asked,
                        const struct budget_load *load)
{
    double bound = bound_of(asked, load);
    double even = BUDGET_TARGET * bound - window_chance(state, profiling_at(state, load, state->work));
    return fmin(fmax(even, EVEN_LEAST * bound), EVEN_MOST * bound);
}

/*
 * CPU that a second of the next cycle may spend on profiling; negative where not even the fixed costs fit.
 * Any number of the newest cycles may be all that a later window holds beside idle ones. What was saved is
 * not spent at once, and what was spent too much not made good at once, so that chance does not swing the
 * limits.
 */
static double room_for(const struct budget_state *state, const struct budget_asked *asked,
                       const struct budget_load *next)
{
    double even = even_cost(state, asked, next) - cost_fixed(state, next);
    /* In what comes before the promise begins, starting up must not use up all. */
    if (state->cycles < BUDGET_CYCLES)
        return even;
    /* A load that is the same spends by chance only, which the brake sees to: unless counting takes nearly
     * all, and what is left is in the margin for chance. */
    if (usual_settled(state) && even > MARGINAL * cost_fixed(state, next))
        return even;
    double least = INFINITY;
    for (uint32_t kept = 0; kept < BUDGET_CYCLES; kept++)
        least = fmin(least, room_beside(state, asked, next, kept));
    return least > DEEP * even ? even + MADE_GOOD * (least - even) : least;
}

/* How much work (1 = all) fits into a second of a cycle that is like this. */
static double affordable(const struct budget_state *state, const struct budget_asked *asked,
                         const struct budget_load *next)
{
    double room = room_for(state, asked, next);
    double sampling = cost_sampling(state, next), actions = cost_actions(state, next);
    /* Down to 1 / BUDGET_LONGEST of the work all actions are still admitted; below, their number is in
     * proportion. */
    if (room >= actions + sampling / BUDGET_LONGEST)
        return sampling > 0 ? (room - actions) / sampling : 1.0;
    return room / (sampling + actions * BUDGET_LONGEST);
}

/* What is left of the window for profiling in the next second, should the workers do no more than of late. */
static double left_in_window(const struct budget_state *state, const struct budget_asked *asked)
{
    struct budget_measure sum = sum_of(state, BUDGET_CYCLES - 1);
    struct budget_load next = cost_load(state, cost_last(state));
    next.worker_cpu = fmin(next.worker_cpu, state->usual.worker_cpu);
    double against = fmax(sum.worker_cpu + next.worker_cpu, BUDGET_FLOOR * (sum.attached + next.attached));
    return BRAKE_TARGET * asked->max_overhead * against - cost_of(&sum) - cost_fixed(state, &next);
}

/* Would another second like what is usual, or like the last one, be too much for the window? */
static bool must_wait(const struct budget_state *state, const struct budget_asked *asked)
{
    if (state->cycles < BUDGET_CYCLES || state->usual_cycles == 0)
        return false;
    struct budget_load newest = cost_load(state, cost_last(state));
    double next =
        fmax(profiling_at(state, &state->usual, state->work), profiling_at(state, &newest, state->work));
    return next > left_in_window(state, asked);
}

/* Nothing is profiled in the next cycle if the window has no room for what is usual. */
static void wait_for_window(struct budget_state *state, const struct budget_asked *asked)
{
    state->waits = state->work > 0 && state->quiet_for == 0 && must_wait(state, asked);
    state->waits_for = state->waits ? state->waits_for + 1 : 0;
    if (state->waits_for < BUDGET_CYCLES)
        return;
    /* The window is empty by now, and still what was usual would not fit: it is so no more, or was never
     * true. Nothing tells while nothing is profiled, so less is tried, under the brake. */
    state->waits = false;
    state->waits_for = 0;
    state->usual_cycles = 0;
    state->work = fmin(state->work, 1 / BUDGET_LONGEST) / 2;
}

/*
 * How many more actions the window pays for. Chance in a window's cost is met here and by the brake, not by
 * the interval: fewer actions are profiled, or none for a cycle, while what is usual still fits.
 */
static double payable_in_window(const struct budget_state *state, const struct budget_asked *asked)
{
    struct budget_load recent = usual_recent(state, USUAL_RECENT);
    if (state->cycles < BUDGET_CYCLES || state->usual_cycles == 0 || recent.admitted <= 0)
        return INFINITY;
    double each = (recent.action_cpu + recent.sampler_cpu) / recent.admitted;
    return each > 0 ? left_in_window(state, asked) / each : INFINITY;
}

/* The work with which a load as dear as `spike` would use SPIKE_SHARE of what is left until it is braked, if
 * it came now. */
static double ready_for(const struct budget_state *state, const struct budget_asked *asked, double spike)
{
    struct budget_load next = cost_load(state, cost_last(state));
    double guess = next.attached * TICK_CPU * 1e9 / (double)asked->interval_ns;
    spike = spike > 0 ? fmax(spike, guess / 4) : guess;
    double room = room_beside(state, asked, &next, BUDGET_CYCLES - 1);
    return spike > 0 ? SPIKE_SHARE * room / (spike * REACTION_S) : INFINITY;
}

static double least_work(const struct budget_asked *asked, const struct budget_measure *measure)
{
    /* One action a cycle; there is no less but none. */
    double most = asked->cap != 0 ? asked->cap : fmax(measure->demand, 1);
    return fmin(1 / BUDGET_LONGEST / most, LEAST_WORK);
}

/*
 * Is what all this costs so far from what is aimed at that it is no matter of chance? Where the samplers are
 * the smaller part of it, a little more or less of the rest would move the interval far.
 */
static bool is_off(const struct budget_state *state, const struct budget_asked *asked)
{
    const struct budget_load *usual = &state->usual;
    double even = even_cost(state, asked, usual);
    double doubt = DOUBT * usual_doubt(state) * profiling_at(state, usual, state->work);
    return fabs(cost_at(state, usual, state->work) - even) >
           fmin(fmax(doubt, DOUBT_LEAST * even), DOUBT_MOST * even);
}

/*
 * Where the samplers are the smaller part of the cost, half the interval may be a matter of a hundredth of
 * the budget. Then all that was asked for is worth that hundredth, once the load is known well.
 */
static bool whole_fits(const struct budget_state *state, const struct budget_asked *asked)
{
    const struct budget_load *usual = &state->usual;
    double most = WHOLE * bound_of(asked, usual), whole = cost_at(state, usual, 1.0);
    if (state->work >= 1)
        return whole <= most;
    return usual_settled(state) && whole + window_chance(state, profiling_at(state, usual, 1.0)) <= most;
}

static void set_work(struct budget_state *state, const struct budget_asked *asked, double least)
{
    usual_learn(state, asked);
    double before = state->work, can = affordable(state, asked, &state->usual);
    bool whole = state->work > 0 && whole_fits(state, asked);
    if (whole)
        can = fmax(can, 1.0);
    bool stay = usual_settled(state) && !is_off(state, asked) && !whole;
    if (can < STEADY * state->work && !stay) {
        state->work = can < least ? 0 : can;
    } else if (state->work <= 0) {
        /* Out of a pause carefully: what the samplers will cost now is only remembered. Where nothing was
         * profiled for a window that has room, that is as good as forgotten. */
        bool forgotten = state->paused_for >= BUDGET_CYCLES && room_for(state, asked, &state->usual) > 0;
        if (forgotten)
            state->usual_cycles = 0;
        if (can > 1.5 * least || forgotten)
            state->work = fmin(fmax(can / 2, least), 1 / BUDGET_LONGEST);
    } else if ((can > CLEAR_ROOM * state->work && !stay) || whole) {
        /* Half the way, so that chance is not followed; to all that was asked for all of it. */
        double most = state->work < 1 / BUDGET_LONGEST
                          ? fmin(state->work * RAISE_ADMITTED, RAISE / BUDGET_LONGEST)
                          : state->work * RAISE;
        state->work = fmin(fmin(most, can < 1 ? (state->work + can) / 2 : can), 1.0);
    }
    state->reason = state->work <= 0       ? BUDGET_SPENT
                    : state->work < before ? BUDGET_TOO_DEAR
                    : state->work > before ? BUDGET_ROOM
                    : state->work < 1      ? BUDGET_FULL
                                           : BUDGET_FITS;
}

/* No action came: is that more than chance, where so few come? */
static bool is_idle(const struct budget_state *state)
{
    return state->quiet_for >= BUDGET_CYCLES || state->quiet_for * state->usual.demand >= QUIET_MOST;
}

static void decide(struct budget_state *state, const struct budget_asked *asked,
                   const struct budget_measure *measure)
{
    double least = least_work(asked, measure);
    bool profiled = state->exposure[cost_last(state)] > 0;
    if (state->cycles < BUDGET_CYCLES) {
        if (profiled || state->work <= 0)
            set_work(state, asked, least);
    } else if (measure->demand < 1 && !profiled && is_idle(state)) {
        /* Idle: nothing is spent, so it may be held ready at once. */
        double ready = ready_for(state, asked, cost_remembered(state));
        state->work = ready < least ? 0 : fmin(ready, 1.0);
        state->reason = state->work <= 0 ? BUDGET_SPENT : state->work < 1 ? BUDGET_IDLE : BUDGET_FITS;
    } else if (profiled || state->work <= 0) {
        set_work(state, asked, least);
    }
}

/* Of a cap that stands for a share of the demand the lottery uses a part: how much is seen. */
static void note_use(struct budget_state *state, const struct budget_measure *measure)
{
    if (state->cap_given == 0 || measure->demand < state->cap_given)
        return;
    double used = fmin(measure->admitted / state->cap_given, 1);
    state->used = fmax(state->used + USUAL_SHARE * (used - state->used), LEAST_USED);
}

/* How many actions, should many come at once, can be paid for until the brake takes hold. Without a cap of
 * the application's not so few that it limits what is usual: that is the work's part. */
static uint32_t payable(const struct budget_state *state, const struct budget_asked *asked)
{
    struct budget_load next = cost_load(state, cost_last(state));
    double each = state->each_action_cpu > 0 ? state->each_action_cpu : COST_ACTION_CPU;
    double room = room_beside(state, asked, &next, BUDGET_CYCLES - 1) -
                  state->work * fmax(cost_sampling(state, &next), state->spike_cpu);
    double most = fmax(SPIKE_SHARE * room / each, 1);
    if (asked->cap == 0) {
        double usual = fmin(state->usual.demand, next.demand) * cost_share(state->work) / state->used;
        most = fmax(most, fmin(fmax(room / each, usual), USUAL_TIMES * usual));
    }
    return (uint32_t)fmin(most, 1e9);
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
    if (state->pass_for > 0) {
        /* A load that fell by half is another one. */
        bool other = measure->worker_cpu < 0.5 * state->pass_cpu;
        state->pass_for = other ? 0 : state->pass_for - 1;
        return state->pass_for > 0;
    }
    double against = fmax(measure->worker_cpu, BUDGET_FLOOR * measure->attached);
    double each = fmax(state->each_action_cpu, COST_ACTION_CPU);
    double anyway = measure->hook_cpu + measure->aggregator_cpu - measure->admitted * each;
    bool over = anyway > BUDGET_TARGET * asked->max_overhead * against &&
                measure->hook_cpu > HOOKS_MATTER * cost_of(measure);
    state->over_for = over ? state->over_for + 1 : 0;
    /* Before the promise begins there is no need to, and workers that have just started are dearer than they
     * will be. After a trial that failed there is no doubt any more. */
    if (state->cycles < BUDGET_CYCLES || state->over_for < (state->pass_hold == 0 ? PASS_AFTER : 1)) {
        if (state->paused_for == 0)
            state->pass_hold = 0;
        return false;
    }
    state->over_for = 0;
    state->pass_hold = state->pass_hold == 0 ? 30 : state->pass_hold < 150 ? 2 * state->pass_hold : 300;
    state->pass_for = state->pass_hold;
    state->pass_cpu = measure->worker_cpu;
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

/* Has this cycle spent what it may, or even all that the window had? */
static void judge(const struct budget_state *state, const struct budget_asked *asked,
                  const struct budget_measure *so_far, double ahead_s, const struct budget_limits *limits,
                  bool *pause, bool *let_through)
{
    *pause = *let_through = false;
    if (state->cycles < BUDGET_CYCLES || limits->passthrough)
        return;
    struct budget_measure sum = sum_of(state, BUDGET_CYCLES - 1);
    double passed = fmax(so_far->seconds, 0.001), ahead = fmin(ahead_s, fmax(1 - passed, 0));
    double workers = so_far->attached / passed, cost = cost_of(so_far) * (1 + ahead / passed);
    double against = fmax(sum.worker_cpu + so_far->worker_cpu, BUDGET_FLOOR * (sum.attached + workers));
    double left = BRAKE_TARGET * asked->max_overhead * against - cost_of(&sum);
    *pause = cost > BRAKE_SHARE * left && !limits->paused;
    *let_through = cost > left && so_far->hook_cpu > HOOKS_MATTER * cost;
}

bool budget_would_brake(const struct budget_state *state, const struct budget_asked *asked,
                        const struct budget_measure *so_far, double ahead_s,
                        const struct budget_limits *limits)
{
    bool pause, let_through;
    judge(state, asked, so_far, ahead_s, limits, &pause, &let_through);
    return pause || let_through;
}

bool budget_brake(struct budget_state *state, const struct budget_asked *asked,
                  const struct budget_measure *so_far, double ahead_s, struct budget_limits *limits)
{
    bool pause, let_through;
    judge(state, asked, so_far, ahead_s, limits, &pause, &let_through);
    if (!pause && !let_through)
        return false;
    if (pause)
        state->unbraked = fmin(fmax(so_far->seconds, 0.05), 1);
    limits->paused = true;
    limits->passthrough = let_through;
    limits->interval_ns = (uint64_t)((double)asked->interval_ns * BUDGET_PAUSED);
    limits->reason = let_through ? BUDGET_HOOKS_ALONE : BUDGET_BRAKED;
    return true;
}

void budget_step(struct budget_state *state, const struct budget_asked *asked,
                 const struct budget_measure *measure, struct budget_limits *limits)
{
    double unbraked = state->waits ? 0.0 : state->unbraked > 0 ? state->unbraked : 1.0;
    state->unbraked = 0;
    if (!state->started) {
        state->started = true;
        state->work = 1.0;
        state->granularity = asked->granularity;
    }
    if (state->used <= 0)
        state->used = ADMISSION_FILL;
    /* Without workers nothing is spent and nothing learnt: those that come find what was left. */
    if (measure->attached > 0) {
        bool starting = state->cycles < BUDGET_CYCLES;
        state->cycle[state->next] = starting ? without_start(measure, asked) : *measure;
        state->seen[state->next] = *measure;
        state->next = (state->next + 1) % BUDGET_CYCLES;
        if (starting)
            state->cycles++;
        state->quiet_for = measure->demand < 1 ? state->quiet_for + 1 : 0;
        cost_note(state, asked, unbraked);
        note_use(state, measure);
        /* What it cost to start is no sign of what it costs to run. */
        if (state->pass_for > 0) {
            state->work = 0; /* until it is seen what counting costs now */
            state->reason = BUDGET_SPENT;
        } else if (state->cycles > START_CYCLES) {
            struct budget_load recent = usual_recent(state, USUAL_RECENT);
            cost_learn(state, measure, &recent);
            decide(state, asked, measure);
        }
    }
    state->paused_for = state->work <= 0 ? state->paused_for + 1 : 0;
    state->granularity = granularity_for(state, asked->granularity);

    wait_for_window(state, asked);
    bool pauses = state->work <= 0 || state->waits;
    double longer = pauses ? BUDGET_PAUSED : fmin(1 / state->work, BUDGET_LONGEST);
    double fewer = cost_share(state->work > 0 ? state->work : LEAST_WORK);
    *limits = (struct budget_limits){
        .interval_ns = (uint64_t)((double)asked->interval_ns * longer),
        .granularity = state->granularity,
        .cap = asked->cap,
        .passthrough = pass_through(state, asked, measure),
    };
    limits->paused = pauses || limits->passthrough;
    limits->reason = limits->passthrough ? BUDGET_HOOKS_ALONE : state->waits ? BUDGET_WAITS : state->reason;
    state->cap_given = 0;
    if (fewer < 1.0 && asked->cap != 0) {
        limits->cap = (uint32_t)fmax(1, floor(asked->cap * fewer));
    } else if (fewer < 1.0) {
        limits->cap = (uint32_t)fmin(
            fmax(1, floor(fmax(state->usual.demand, measure->demand) * fewer / state->used)), 1e9);
        state->cap_given = limits->cap;
    }
    limits->lottery = limits->cap;
    if (state->cycles == BUDGET_CYCLES) {
        uint32_t surge = (uint32_t)fmin(payable(state, asked), fmax(payable_in_window(state, asked), 1));
        if (limits->cap == 0 || limits->cap > surge)
            limits->cap = state->cap_given = surge;
        if (limits->lottery > limits->cap)
            limits->lottery = limits->cap;
    }
}
