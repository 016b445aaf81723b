/* What the budget controller and the admission promise, played through as traces. */
#include <check.h>
#include <math.h>
#include <string.h>

#include "aggregator/admission.h"
#include "aggregator/budget.h"
#include "aggregator/history.h"
#include "aggregator/pace.h"
#include "shm/rates.h"
#include "tests/unit/suite.h"

/* A pool as it would answer to limits: what sampling costs at full work, and what costs anyway. */
struct world {
    double sampler_at_full; /* CPU seconds a second */
    double hooks, aggregator, workers_cpu;
    unsigned workers;
    double action_cpu, demand; /* what a profiled action costs hooks and aggregator; actions a second */
};

static const struct budget_asked asked = {
    .max_overhead = 0.02, .interval_ns = 10000000, .granularity = GRANULARITY_LINE, .cap = 10};

static struct budget_measure live(const struct world *world, const struct budget_limits *limits)
{
    double factor = (double)asked.interval_ns / (double)limits->interval_ns;
    if (limits->cap != 0 && limits->cap < asked.cap)
        factor *= (double)limits->cap / asked.cap;
    double demand = world->demand > 0 ? world->demand : 100;
    double admitted = limits->cap != 0 && limits->cap < demand ? limits->cap : demand;
    if (limits->paused)
        factor = admitted = 0;
    return (struct budget_measure){
        .seconds = 1,
        .sampler_cpu = world->sampler_at_full * factor,
        .hook_cpu = limits->passthrough ? 0 : world->hooks + admitted * world->action_cpu,
        .aggregator_cpu = world->aggregator,
        .worker_cpu = world->workers_cpu,
        .attached = world->workers,
        .demand = demand,
        .admitted = admitted,
    };
}

/* Overhead of each 10 s that begin 10 s after the start or later, at most. */
static double worst_window(const struct budget_measure *cycle, int cycles)
{
    double worst = 0;
    for (int from = 10; from + 10 <= cycles; from++) {
        double ours = 0, workers = 0, floor = 0;
        for (int i = from; i < from + 10; i++) {
            ours += cycle[i].sampler_cpu + cycle[i].hook_cpu + cycle[i].aggregator_cpu;
            workers += cycle[i].worker_cpu;
            floor += BUDGET_FLOOR * cycle[i].attached;
        }
        worst = fmax(worst, ours / fmax(workers, floor));
    }
    return worst;
}

static void play(const struct world *(*at)(int second), int seconds, struct budget_measure *cycle,
                 struct budget_limits *limits)
{
    struct budget_state state = {0};
    *limits = (struct budget_limits){asked.interval_ns, asked.granularity, asked.cap, 0, false, false, 0};
    for (int i = 0; i < seconds; i++) {
        cycle[i] = live(at(i), limits);
        budget_step(&state, &asked, &cycle[i], limits);
    }
}

static struct world the_world;
static const struct world *steady(int second)
{
    (void)second;
    return &the_world;
}

START_TEST(cheap_profiling_runs_at_the_asked_interval)
{
    struct budget_measure cycle[60];
    struct budget_limits limits;
    the_world = (struct world){0.004, 0.001, 0.002, 2.0, 4, 0, 0};
    play(steady, 60, cycle, &limits);
    ck_assert_uint_eq(limits.interval_ns, asked.interval_ns);
    ck_assert_uint_eq(limits.cap, asked.cap);
    ck_assert_uint_eq(limits.granularity, GRANULARITY_LINE);
    ck_assert(!limits.paused && !limits.passthrough);
}
END_TEST

START_TEST(dear_profiling_is_held_below_the_bound_in_every_window)
{
    /* From twice too dear to two hundred times. */
    for (double cost = 0.05; cost < 6; cost *= 1.7) {
        struct budget_measure cycle[120];
        struct budget_limits limits;
        the_world = (struct world){cost, 0.002, 0.002, 1.5, 4, 0, 0};
        play(steady, 120, cycle, &limits);
        double worst = worst_window(cycle, 120);
        ck_assert_msg(worst <= asked.max_overhead, "cost %.2f: %.4f", cost, worst);
    }
}
END_TEST

START_TEST(profiled_actions_that_are_dear_themselves_are_held_below_the_bound_too)
{
    /* No cap, thousands of actions a second, most of the cost in hooks and delivery. */
    static const struct budget_asked uncapped = {
        .max_overhead = 0.02, .interval_ns = 10000000, .granularity = GRANULARITY_LINE, .cap = 0};
    for (double cpu = 10e-6; cpu < 200e-6; cpu *= 2) {
        struct world world = {0.003, 0.003, 0.003, 1.5, 4, cpu, 6000};
        struct budget_measure cycle[120];
        struct budget_state state = {0};
        struct budget_limits limits = {uncapped.interval_ns, uncapped.granularity, 0, 0, false, false, 0};
        double admitted = 0;
        for (int i = 0; i < 120; i++) {
            cycle[i] = live(&world, &limits);
            budget_step(&state, &uncapped, &cycle[i], &limits);
            admitted += i >= 60 ? cycle[i].admitted : 0;
        }
        double worst = worst_window(cycle, 120);
        ck_assert_msg(worst <= uncapped.max_overhead, "%.0f us: %.4f", cpu * 1e6, worst);
        /* … and what fits is used: at least half of it. */
        double room = (0.02 * 1.5 - 0.006) / cpu * 60;
        ck_assert_msg(admitted >= 0.5 * room, "%.0f us: %.0f of %.0f", cpu * 1e6, admitted, room);
    }
}
END_TEST

START_TEST(the_budget_is_used_not_only_kept)
{
    struct budget_measure cycle[120];
    struct budget_limits limits;
    the_world = (struct world){0.1, 0.002, 0.002, 1.5, 4, 0, 0};
    play(steady, 120, cycle, &limits);
    double ours = 0;
    for (int i = 60; i < 120; i++)
        ours += cycle[i].sampler_cpu + cycle[i].hook_cpu + cycle[i].aggregator_cpu;
    ck_assert_double_ge(ours / (60 * 1.5), 0.6 * asked.max_overhead);
}
END_TEST

START_TEST(the_interval_gives_way_first_then_detail_then_actions)
{
    struct budget_measure cycle[120];
    struct budget_limits limits;
    the_world = (struct world){0.08, 0.001, 0.001, 1.5, 4, 0, 0}; /* about 3 times too dear */
    play(steady, 120, cycle, &limits);
    ck_assert_uint_gt(limits.interval_ns, asked.interval_ns);
    ck_assert_uint_eq(limits.granularity, GRANULARITY_LINE);
    ck_assert_uint_eq(limits.cap, asked.cap);
    the_world.sampler_at_full = 1.0; /* 40 times too dear */
    play(steady, 120, cycle, &limits);
    ck_assert_uint_ge(limits.interval_ns, 9 * asked.interval_ns);
    ck_assert_uint_lt(limits.granularity, GRANULARITY_LINE);
    ck_assert_uint_lt(limits.cap, asked.cap);
    ck_assert_uint_ge(limits.cap, 1);
}
END_TEST

static const struct world *spike(int second)
{
    static struct world calm = {0.004, 0.001, 0.002, 2.0, 4, 0, 0}, storm = {0.4, 0.004, 0.004, 2.0, 4, 0, 0};
    return second >= 30 && second < 50 ? &storm : &calm;
}

START_TEST(after_a_spike_it_recovers_by_steps_of_a_fifth)
{
    struct budget_state state = {0};
    struct budget_limits limits = {asked.interval_ns, asked.granularity, asked.cap, 0, false, false, 0};
    uint64_t before = asked.interval_ns;
    for (int i = 0; i < 400; i++) {
        struct budget_measure cycle = live(spike(i), &limits);
        budget_step(&state, &asked, &cycle, &limits);
        if (i ==
            100) { /* all detail is back, only the interval stays ready for another one for some minutes */
            ck_assert_uint_eq(limits.granularity, GRANULARITY_LINE);
            ck_assert_uint_eq(limits.cap, asked.cap);
            ck_assert_uint_le(limits.interval_ns, 3 * asked.interval_ns);
        }
        if (i > 52) /* never faster than 1.2 a cycle */
            ck_assert_double_ge((double)limits.interval_ns, (double)before / 1.21);
        before = limits.interval_ns;
    }
    ck_assert_uint_eq(limits.interval_ns, asked.interval_ns);
    ck_assert_uint_eq(limits.granularity, GRANULARITY_LINE);
}
END_TEST

START_TEST(hooks_that_alone_pass_the_budget_are_let_through)
{
    struct budget_measure cycle[60];
    struct budget_limits limits;
    the_world = (struct world){0.01, 0.08, 0.002, 1.5, 4, 0, 0};
    play(steady, 35, cycle, &limits);
    ck_assert(limits.paused);
    ck_assert(limits.passthrough);
}
END_TEST

/* Caches are cold, pools and connections are made: what counting costs then is no reason not to count. */
START_TEST(hooks_that_are_too_dear_while_workers_start_are_not_let_through)
{
    struct budget_state state = {0};
    struct budget_limits limits = {0};
    for (int i = 0; i < 60; i++) {
        struct budget_measure cycle = {
            .seconds = 1,
            .hook_cpu = i < 8 ? 0.022 : 0.012,
            .aggregator_cpu = 0.002,
            .worker_cpu = 1,
            .attached = 4,
            .demand = 3500,
        };
        budget_step(&state, &asked, &cycle, &limits);
        ck_assert_msg(!limits.passthrough, "second %d", i);
    }
}
END_TEST

START_TEST(what_starting_costs_does_not_stop_profiling)
{
    struct budget_state state = {0};
    struct budget_limits limits = {0};
    struct budget_measure first = {.seconds = 1, .aggregator_cpu = 0.3, .worker_cpu = 0.2, .attached = 4};
    struct budget_measure rest = {
        .seconds = 1, .sampler_cpu = 0.001, .aggregator_cpu = 0.0005, .worker_cpu = 0.2, .attached = 4};
    budget_step(&state, &asked, &first, &limits);
    ck_assert(!limits.paused);
    for (int i = 0; i < 20; i++) {
        budget_step(&state, &asked, &rest, &limits);
        ck_assert(!limits.paused);
    }
}
END_TEST

/* A pool under a load that changes: everything but the aggregator's rest is in proportion to it. */
struct pool_world {
    const char *name;
    double workers_cpu, sampler_at_full, hook_each, action_each, idle_aggregator, demand;
    uint32_t cap;
};

static struct budget_measure under_load(const struct pool_world *world, double load, unsigned second,
                                        const struct budget_limits *limits)
{
    double demand = world->demand * load;
    double most = world->cap != 0 ? fmin(world->cap, demand) : demand;
    double admitted = limits->cap != 0 ? fmin(limits->cap, demand) : demand;
    double work = most > 0 ? admitted / most * (double)asked.interval_ns / (double)limits->interval_ns : 0;
    if (limits->paused)
        work = admitted = 0;
    double noise = 0.9 + 0.1 * (double)(second * 7919 % 21) / 10;
    double sampler = world->sampler_at_full * load * work * noise;
    return (struct budget_measure){
        .seconds = 1,
        .sampler_cpu = sampler,
        .hook_cpu = limits->passthrough ? 0 : demand * world->hook_each + admitted * world->action_each,
        .aggregator_cpu = world->idle_aggregator * (work > 0 ? 2.5 : 1) + 0.1 * sampler,
        .worker_cpu = world->workers_cpu * load,
        .attached = 4,
        .demand = limits->passthrough ? 0 : demand,
        .admitted = admitted,
    };
}

static void add(struct budget_measure *sum, const struct budget_measure *whole, double part)
{
    sum->seconds += whole->seconds * part;
    sum->sampler_cpu += whole->sampler_cpu * part;
    sum->hook_cpu += whole->hook_cpu * part;
    sum->aggregator_cpu += whole->aggregator_cpu * part;
    sum->worker_cpu += whole->worker_cpu * part;
    sum->attached += whole->attached * part;
    sum->demand += whole->demand * part;
    sum->admitted += whole->admitted * part;
}

/* A second in tenths, after each of which the brake is asked by what was to be seen a tenth before. */
static struct budget_measure braked_second(const struct pool_world *world, double load, unsigned second,
                                           struct budget_state *state, const struct budget_asked *want,
                                           struct budget_limits *limits)
{
    struct budget_measure sum = {0}, seen = {0};
    for (int tenth = 0; tenth < 10; tenth++) {
        struct budget_measure whole = under_load(world, load, second, limits);
        add(&sum, &whole, 0.1);
        if (tenth > 0)
            budget_brake(state, want, &seen, 0.2, limits);
        seen = sum;
    }
    return sum;
}

static double load_at(int shape, int second)
{
    switch (shape) {
    case 0:
        return 1;
    case 1:
        return second / 30 % 2 == 0; /* on and off */
    case 2:
        return second % 2 == 0;
    case 3:
        return second % 30 < 3 || second < 5 ? 1 : 0.1; /* bursts of ten times the load */
    case 4:
        return second < 40 ? 1 : 0.05;
    case 5:
        return second < 60 || second >= 75 ? 1 : 0;
    case 6:
        return 0.5 + 0.5 * sin(second / 20.0);
    default:
        return second >= 40; /* never seen before */
    }
}

START_TEST(whatever_the_load_does_no_window_passes_the_bound)
{
    static const struct pool_world worlds[] = {
        {"cheap", 1.5, 0.008, 10e-6, 20e-6, 0.0006, 100, 10},
        {"dear", 1.5, 0.012, 10e-6, 30e-6, 0.0006, 1000, 10},
        {"waiting", 0.1, 0.012, 4e-6, 30e-6, 0.0004, 50, 10},
        {"uncapped", 1.5, 0.01, 1e-6, 60e-6, 0.0008, 3000, 0},
    };
    const struct pool_world *world = &worlds[_i / 8];
    struct budget_asked want = asked;
    struct budget_measure cycle[300];
    struct budget_state state = {0};
    want.cap = world->cap;
    struct budget_limits limits = {want.interval_ns, want.granularity, want.cap, 0, false, false, 0};
    for (int i = 0; i < 300; i++) {
        cycle[i] = braked_second(world, load_at(_i % 8, i), (unsigned)i, &state, &want, &limits);
        budget_step(&state, &want, &cycle[i], &limits);
    }
    double worst = worst_window(cycle, 300);
    ck_assert_msg(worst <= want.max_overhead, "%s, load %d: %.4f", world->name, _i % 8, worst);
}
END_TEST

START_TEST(a_load_that_stops_and_comes_back_finds_the_detail_it_had)
{
    static const struct pool_world world = {"", 1.5, 0.009, 10e-6, 30e-6, 0.0004, 200, 10};
    struct budget_state state = {0};
    struct budget_limits limits = {asked.interval_ns, asked.granularity, asked.cap, 0, false, false, 0};
    for (int i = 0; i < 200; i++) {
        double load = i < 60 ? 1 : i < 65 ? 0 : i < 120 ? 1 : i < 160 ? 0.05 : 1;
        struct budget_measure cycle = under_load(&world, load, (unsigned)i, &limits);
        if (i >= 170 && i < 185) /* all workers leave */
            cycle = (struct budget_measure){.seconds = 1, .aggregator_cpu = 0.0002};
        budget_step(&state, &asked, &cycle, &limits);
        ck_assert_msg(limits.granularity == GRANULARITY_LINE && limits.cap == asked.cap && !limits.paused,
                      "second %d: %u %u", i, limits.granularity, limits.cap);
        ck_assert_msg(limits.interval_ns <= 3 * asked.interval_ns, "second %d: %lu", i,
                      (unsigned long)limits.interval_ns);
    }
}
END_TEST

START_TEST(a_pool_whose_fixed_cost_passes_the_bound_is_let_through_within_ten_seconds)
{
    static const struct pool_world hog = {"", 1.5, 0.01, 40e-6, 20e-6, 0.0006, 1000, 10};
    struct budget_measure cycle[400];
    struct budget_state state = {0};
    struct budget_limits limits = {asked.interval_ns, asked.granularity, asked.cap, 0, false, false, 0};
    for (int i = 0; i < 400; i++) {
        cycle[i] = under_load(&hog, 1, (unsigned)i, &limits);
        budget_step(&state, &asked, &cycle[i], &limits);
        if (i == 10)
            ck_assert(limits.passthrough);
    }
    ck_assert_double_le(worst_window(cycle, 400), asked.max_overhead);
}
END_TEST

START_TEST(workers_that_start_all_the_time_do_not_stop_profiling_that_fits)
{
    static const struct pool_world world = {"", 1.5, 0.008, 10e-6, 20e-6, 0.0006, 200, 10};
    struct budget_measure cycle[120];
    struct budget_state state = {0};
    struct budget_limits limits = {asked.interval_ns, asked.granularity, asked.cap, 0, false, false, 0};
    for (int i = 0; i < 120; i++) {
        cycle[i] = under_load(&world, 1, (unsigned)i, &limits);
        cycle[i].sampler_cpu += 0.004; /* a new worker each second: its sampler's start */
        budget_step(&state, &asked, &cycle[i], &limits);
        if (i > 10)
            ck_assert(!limits.paused && limits.granularity == GRANULARITY_LINE && limits.cap == asked.cap);
    }
    ck_assert_double_le(worst_window(cycle, 120), asked.max_overhead);
}
END_TEST

START_TEST(an_idle_pool_is_left_as_it_was)
{
    struct budget_state state = {0};
    struct budget_limits limits;
    struct budget_measure idle = {.seconds = 1, .aggregator_cpu = 0.0005, .attached = 4};
    for (int i = 0; i < 100; i++)
        budget_step(&state, &asked, &idle, &limits);
    ck_assert(!limits.paused);
    ck_assert_uint_eq(limits.interval_ns, asked.interval_ns);
}
END_TEST

/* ---- what is told of it ------------------------------------------------------------------------------- */

START_TEST(each_change_of_the_limits_is_kept_with_its_reason)
{
    struct history *history = calloc(1, sizeof *history);
    struct budget_state state = {0};
    struct budget_limits limits = {asked.interval_ns, asked.granularity, asked.cap, 0, false, false, 0};
    bool told[BUDGET_REASONS] = {false};
    uint64_t changes = 0;
    for (int i = 0; i < 300; i++) {
        struct budget_limits before = limits;
        struct budget_measure cycle = live(spike(i), &limits);
        budget_step(&state, &asked, &cycle, &limits);
        history_note(history, &cycle, &before, &limits, budget_overhead(&state), (uint64_t)i * 1000000000);
        bool changed = limits.interval_ns != before.interval_ns || limits.cap != before.cap ||
                       limits.granularity != before.granularity || limits.paused != before.paused;
        changes += changed;
        ck_assert_uint_eq(history->decisions, changes);
        if (!changed)
            continue;
        told[limits.reason] = true;
        if (limits.reason == BUDGET_ROOM)
            ck_assert_uint_le(limits.interval_ns, before.interval_ns);
        if (limits.reason == BUDGET_TOO_DEAR)
            ck_assert(limits.interval_ns >= before.interval_ns && limits.cap <= before.cap);
    }
    ck_assert(told[BUDGET_SPENT] && told[BUDGET_ROOM]);
    free(history);
}
END_TEST

START_TEST(the_last_hour_is_kept_in_pieces_of_ten_seconds)
{
    struct history *history = calloc(1, sizeof *history);
    struct budget_limits limits = {asked.interval_ns, GRANULARITY_LINE, 10, 0, false, false, 0};
    struct budget_measure cycle = {
        .seconds = 1.02, .sampler_cpu = 0.01, .worker_cpu = 1, .attached = 4, .demand = 7, .admitted = 2};
    for (int i = 0; i < 5000; i++) {
        limits.granularity = i % 10 == 3 ? GRANULARITY_FILE : GRANULARITY_LINE;
        history_note(history, &cycle, &limits, &limits, i % 10 == 5 ? 0.5 : 0.1,
                     (uint64_t)(1.02e9 * (i + 1)));
    }
    ck_assert_uint_eq(history->decisions, 0);
    ck_assert_uint_eq(history->points - history_first_point(history), HISTORY_POINTS);
    for (uint64_t i = history_first_point(history); i < history->points; i++) {
        const struct history_point *point = &history->point[i % HISTORY_POINTS];
        ck_assert_uint_eq(point->start_real_ns, (uint64_t)(1.02e9 * 10 * (double)i));
        ck_assert_double_eq_tol(point->seconds, 10.2, 1e-9);
        ck_assert_double_eq_tol(point->sampler_cpu, 0.1, 1e-9);
        ck_assert_double_eq_tol(point->demand, 70, 1e-9);
        ck_assert_double_eq_tol(point->overhead, 0.5, 1e-9);
        ck_assert_uint_eq(point->granularity, GRANULARITY_FILE);
    }
    free(history);
}
END_TEST

/* ---- how often workers are looked at ------------------------------------------------------------------ */

START_TEST(where_looking_is_too_dear_it_is_done_less_often_and_again_only_with_clear_room)
{
    struct pace pace = {0};
    struct pace_facts facts = {.attached = 8, .moved = true, .cycle = true, .own = 0.5, .spent = 0.8};
    ck_assert_uint_eq(pace_next(&pace, &facts), 100);
    facts.own = 1.5;
    ck_assert_uint_eq(pace_next(&pace, &facts), 250);
    facts.cycle = false; /* the same figure again is no news */
    ck_assert_uint_eq(pace_next(&pace, &facts), 250);
    facts.cycle = true;
    ck_assert_uint_eq(pace_next(&pace, &facts), 500);
    ck_assert_uint_eq(pace_next(&pace, &facts), 1000);
    ck_assert_uint_eq(pace_next(&pace, &facts), 1000);
    facts.own = 0.6; /* what half the pace costs would be too dear */
    ck_assert_uint_eq(pace_next(&pace, &facts), 1000);
    facts.own = 0.2;
    ck_assert_uint_eq(pace_next(&pace, &facts), 500);
    facts.fill = 0.5; /* lanes that fill come first */
    ck_assert_uint_eq(pace_next(&pace, &facts), 250);
}
END_TEST

START_TEST(a_quiet_pool_is_looked_at_less_often_until_something_moves)
{
    struct pace pace = {0};
    struct pace_facts facts = {.attached = 8};
    unsigned ms = 0;
    for (int i = 0; i < 10; i++)
        ms = pace_next(&pace, &facts);
    ck_assert_uint_eq(ms, 250);
    facts.attached = 0;
    ck_assert_uint_eq(pace_next(&pace, &facts), 1000);
    facts.attached = 8;
    facts.moved = true;
    ck_assert_uint_eq(pace_next(&pace, &facts), 100);
}
END_TEST

START_TEST(where_little_of_the_budget_is_spent_nothing_presses)
{
    struct pace pace = {0};
    struct pace_facts facts = {.attached = 8, .moved = true, .cycle = true, .spent = 0.4};
    ck_assert_uint_eq(pace_next(&pace, &facts), 100);
    facts.spent = 0.2;
    ck_assert_uint_eq(pace_next(&pace, &facts), 250);
    facts.spent = 0.4; /* on the way between the two it stays as it is */
    ck_assert_uint_eq(pace_next(&pace, &facts), 250);
    facts.cycle = false;
    facts.spent = 0.7;
    ck_assert_uint_eq(pace_next(&pace, &facts), 250);
    facts.cycle = true;
    ck_assert_uint_eq(pace_next(&pace, &facts), 100);

    struct budget_state new = {0};
    ck_assert_double_eq(pace_spent(&new, &asked), 1); /* nothing is known yet */
}
END_TEST

/* ---- admission --------------------------------------------------------------------------------------- */

static double decoded(uint32_t p)
{
    return ((double)p + 1) / 4294967296.0;
}

START_TEST(a_quiet_pool_admits_everything)
{
    struct admission admission = {0};
    uint64_t demand[STRATA] = {2, 3};
    uint32_t out[STRATA];
    admission_step(&admission, demand, 10, out);
    for (int s = 0; s < STRATA; s++)
        ck_assert_uint_eq(out[s], UINT32_MAX);
}
END_TEST

START_TEST(without_a_cap_everything_is_admitted)
{
    struct admission admission = {0};
    uint64_t demand[STRATA] = {1000000};
    uint32_t out[STRATA];
    admission_step(&admission, demand, 0, out);
    ck_assert_uint_eq(out[0], UINT32_MAX);
}
END_TEST

/*
 * Without a cap of the application's the controller gives one that stops a surge. It is little above what the
 * last second brought, where there is not much room for more; a load that falls has still been more of late.
 */
static unsigned denied_without_a_cap(bool aimed_at_the_stop)
{
    static const struct budget_asked uncapped = {
        .max_overhead = 0.02, .interval_ns = 10000000, .granularity = GRANULARITY_LINE, .cap = 0};
    struct budget_state state = {0};
    struct budget_limits limits = {0};
    struct admission admission = {0};
    uint32_t out[STRATA];
    unsigned denied = 0;
    for (int i = 0; i < 120; i++) {
        uint64_t demand[STRATA] = {0};
        demand[i / 20] = i % 40 < 20 ? 600 : 60; /* and another type each time */
        struct budget_measure cycle = {
            .seconds = 1,
            .sampler_cpu = 0.001,
            .hook_cpu = 18e-6 * (double)demand[i / 20],
            .aggregator_cpu = 0.001,
            .worker_cpu = 2e-3 * (double)demand[i / 20],
            .attached = 4,
            .demand = (double)demand[i / 20],
            .admitted = (double)demand[i / 20],
        };
        budget_step(&state, &uncapped, &cycle, &limits);
        admission_step(&admission, demand, aimed_at_the_stop ? limits.cap : limits.lottery, out);
        ck_assert(!limits.paused && limits.interval_ns < BUDGET_LONGEST * uncapped.interval_ns);
        ck_assert(limits.cap != 0 || i < BUDGET_CYCLES - 1);
        for (int s = 0; s < STRATA; s++)
            denied += out[s] != UINT32_MAX;
    }
    return denied;
}

START_TEST(a_cap_that_only_stops_a_surge_denies_nothing_while_a_longer_interval_is_enough)
{
    ck_assert_uint_eq(denied_without_a_cap(false), 0);
    ck_assert_uint_gt(denied_without_a_cap(true), 0);
}
END_TEST

START_TEST(what_was_held_back_is_admitted_at_once_when_there_is_no_cap_any_more)
{
    struct admission admission = {0};
    uint64_t demand[STRATA] = {1000, 10};
    uint32_t out[STRATA];
    admission_step(&admission, demand, 10, out);
    ck_assert_uint_lt(out[0], UINT32_MAX);
    admission_step(&admission, demand, 0, out);
    for (int s = 0; s < STRATA; s++)
        ck_assert_uint_eq(out[s], UINT32_MAX);
}
END_TEST

START_TEST(rare_actions_get_their_share_beside_busy_ones)
{
    static const struct {
        uint64_t demand[4];
        uint32_t cap;
        double expected[4]; /* admitted a cycle */
    } table[] = {
        {{1000, 0, 0, 0}, 100, {75}},
        {{1000, 1000, 0, 0}, 100, {37.5, 37.5}},
        {{20000, 300, 20, 3}, 200, {63.5, 63.5, 20, 3}},
        {{1000, 10, 0, 0}, 100, {65, 10}},
        {{5, 5, 5, 1000}, 10, {1.875, 1.875, 1.875, 1.875}},
    };
    for (size_t t = 0; t < sizeof table / sizeof *table; t++) {
        struct admission admission = {0};
        uint64_t demand[STRATA] = {0};
        uint32_t out[STRATA];
        memcpy(demand, table[t].demand, sizeof table[t].demand);
        admission_step(&admission, demand, table[t].cap, out);
        double total = 0;
        for (int s = 0; s < 4; s++) {
            double got = decoded(out[s]) * (double)demand[s];
            total += got;
            if (demand[s] != 0)
                ck_assert_msg(fabs(got - table[t].expected[s]) < 0.51, "row %zu stratum %d: %.2f", t, s, got);
        }
        ck_assert_double_le(total, ADMISSION_FILL * table[t].cap + 1e-3);
    }
}
END_TEST

START_TEST(cuts_are_made_at_once_and_raises_by_a_fifth)
{
    struct admission admission = {0};
    uint64_t busy[STRATA] = {1000}, calm[STRATA] = {1};
    uint32_t out[STRATA];
    admission_step(&admission, calm, 10, out);
    ck_assert_uint_eq(out[0], UINT32_MAX);
    admission_step(&admission, busy, 10, out);
    double p = decoded(out[0]);
    ck_assert_double_eq_tol(p, 0.0075, 1e-6);
    for (int i = 0; i < 20; i++) {
        admission_step(&admission, calm, 10, out);
        ck_assert_double_eq_tol(decoded(out[0]), p *= 1.2, 1e-6);
    }
}
END_TEST

START_TEST(a_stratum_that_shows_up_gets_its_share_at_once)
{
    struct admission admission = {0};
    uint64_t one[STRATA] = {4000}, two[STRATA] = {4000, 60};
    uint32_t out[STRATA];
    for (int i = 0; i < 10; i++)
        admission_step(&admission, one, 10, out);
    ck_assert_double_le(decoded(out[1]), 0.01);
    admission_step(&admission, two, 10, out);
    ck_assert_double_eq_tol(decoded(out[1]), 3.75 / 60, 1e-6);
}
END_TEST

START_TEST(an_unknown_stratum_of_a_busy_pool_gets_the_lowest_probability)
{
    struct admission admission = {0};
    uint64_t demand[STRATA] = {1000, 100};
    uint32_t out[STRATA];
    admission_step(&admission, demand, 10, out);
    ck_assert_uint_eq(out[17], out[0] < out[1] ? out[0] : out[1]);
}
END_TEST

/* The stratum that a worker would take by these owners. */
START_TEST(late_admissions_share_a_part_of_the_cap_alike)
{
    struct admission admission = {.owner = {[1] = 11, [2] = 12, [3] = 13, [4] = 14}};
    struct admission_moment moment[STRATA_OWNED] = {
        [1] = {5000000, 0.1}, [2] = {7000000, 0.001}, [3] = {0, 0.5}, [5] = {5000000, 0.1}};
    struct admission_late late;
    uint64_t demand[STRATA] = {[1] = 10000, [2] = 10000, [3] = 10000, [4] = 10000, [5] = 10000};
    uint32_t out[STRATA];
    admission_step(&admission, demand, 100, out);
    admission_late(&admission, moment, 100, out, &late);
    double share = ADMISSION_LATE * 100 / 2; /* two of them have a moment, and an owner */
    ck_assert_uint_eq(late.after_us[1], 5001);
    ck_assert_double_eq_tol((decoded(late.probability[1]) - decoded(out[1])) * 10000 * 0.1, share, 1e-3);
    /* Where next to none lasts longer not everything is noted as a candidate. */
    ck_assert_double_eq_tol((decoded(late.probability[2]) - decoded(out[2])) * 10000 * ADMISSION_STANDBY,
                            share, 1e-3);
    for (int s = 3; s < STRATA_OWNED; s++)
        ck_assert(late.after_us[s] == 0 && late.probability[s] == 0);
    admission_step(&admission, demand, 0, out);
    admission_late(&admission, moment, 0, out, &late);
    for (int s = 0; s < STRATA_OWNED; s++)
        ck_assert(late.after_us[s] == 0 && late.probability[s] == 0);
}
END_TEST

static uint32_t stratum_of(const struct admission *admission, uint32_t hash)
{
    static struct rates_page page;
    struct rates rates = {0};
    memcpy(rates.owner, admission->owner, sizeof rates.owner);
    rates_write(&page, &rates);
    return rates_stratum(&page, hash);
}

START_TEST(a_type_that_was_seen_has_a_stratum_to_itself)
{
    struct admission admission = {0};
    uint64_t demand[STRATA] = {0};
    uint32_t out[STRATA], busy = hash_bytes("/busy", 5),
                          rare = busy ^ 1u << 14 ^ 1u << 29; /* of the same set */
    ck_assert_uint_eq(strata_common(busy), strata_common(rare));
    ck_assert_uint_eq(stratum_of(&admission, busy), strata_common(busy));
    demand[strata_common(busy)] = 4003;
    admission_step(&admission, demand, 10, out);
    ck_assert_double_eq_tol(decoded(out[strata_common(rare)]), 7.5 / 4003, 1e-6);

    admission_own(&admission, busy, 4000);
    admission_own(&admission, rare, 3);
    uint32_t to_busy = stratum_of(&admission, busy), to_rare = stratum_of(&admission, rare);
    ck_assert_uint_lt(to_busy, STRATA_OWNED);
    ck_assert_uint_lt(to_rare, STRATA_OWNED);
    ck_assert_uint_ne(to_busy, to_rare);
    memset(demand, 0, sizeof demand);
    demand[to_busy] = 4000;
    demand[to_rare] = 3;
    admission_step(&admission, demand, 10, out);
    ck_assert_double_eq_tol(decoded(out[to_rare]), 1, 1e-6);
    ck_assert_double_eq_tol(decoded(out[to_busy]), 4.5 / 4000, 1e-6);
    ck_assert_msg(out[to_rare] < UINT32_MAX, "it is lowered when the cap is nearly used up");

    demand[to_rare] = 0; /* it keeps its own while it is away, and in another aggregator's hands */
    for (int i = 0; i < 50; i++)
        admission_step(&admission, demand, 10, out);
    ck_assert_double_eq_tol(decoded(out[to_rare]), 1, 1e-6);
    struct admission next = {0};
    admission_resume(&next, out, admission.owner);
    ck_assert_uint_eq(stratum_of(&next, rare), to_rare);
    admission_step(&next, demand, 10, out);
    ck_assert_double_eq_tol(decoded(out[to_rare]), 1, 1e-6);
}
END_TEST

START_TEST(where_no_place_is_left_one_four_times_rarer_gives_way)
{
    struct admission admission = {0};
    uint32_t hash[STRATA_PLACES + 2], count = 0;
    /* Of all these, those that have both sets in common. */
    for (uint32_t h = 1; count < STRATA_PLACES + 2; h++)
        if (strata_place(h, 0) == 0 && strata_place(h, STRATA_WAYS) == STRATA_WAYS)
            hash[count++] = h;
    for (uint32_t i = 0; i < STRATA_PLACES; i++)
        admission_own(&admission, hash[i], i == 3 ? 20 : 100);
    for (uint32_t i = 0; i < STRATA_PLACES; i++)
        ck_assert_uint_lt(stratum_of(&admission, hash[i]), STRATA_OWNED);
    admission_own(&admission, hash[STRATA_PLACES], 60);
    ck_assert_uint_eq(stratum_of(&admission, hash[STRATA_PLACES]), strata_common(hash[STRATA_PLACES]));
    admission_own(&admission, hash[STRATA_PLACES + 1], 100);
    ck_assert_uint_lt(stratum_of(&admission, hash[STRATA_PLACES + 1]), STRATA_OWNED);
    ck_assert_uint_eq(stratum_of(&admission, hash[3]), strata_common(hash[3]));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("budget");
    TCase *cases = tcase_create("promises");
    tcase_add_test(cases, cheap_profiling_runs_at_the_asked_interval);
    tcase_add_test(cases, dear_profiling_is_held_below_the_bound_in_every_window);
    tcase_add_test(cases, profiled_actions_that_are_dear_themselves_are_held_below_the_bound_too);
    tcase_add_test(cases, the_budget_is_used_not_only_kept);
    tcase_add_test(cases, the_interval_gives_way_first_then_detail_then_actions);
    tcase_add_test(cases, after_a_spike_it_recovers_by_steps_of_a_fifth);
    tcase_add_test(cases, hooks_that_alone_pass_the_budget_are_let_through);
    tcase_add_test(cases, hooks_that_are_too_dear_while_workers_start_are_not_let_through);
    tcase_add_test(cases, what_starting_costs_does_not_stop_profiling);
    tcase_add_loop_test(cases, whatever_the_load_does_no_window_passes_the_bound, 0, 32);
    tcase_add_test(cases, a_load_that_stops_and_comes_back_finds_the_detail_it_had);
    tcase_add_test(cases, a_pool_whose_fixed_cost_passes_the_bound_is_let_through_within_ten_seconds);
    tcase_add_test(cases, workers_that_start_all_the_time_do_not_stop_profiling_that_fits);
    tcase_add_test(cases, an_idle_pool_is_left_as_it_was);
    tcase_add_test(cases, each_change_of_the_limits_is_kept_with_its_reason);
    tcase_add_test(cases, the_last_hour_is_kept_in_pieces_of_ten_seconds);
    tcase_add_test(cases, where_looking_is_too_dear_it_is_done_less_often_and_again_only_with_clear_room);
    tcase_add_test(cases, a_quiet_pool_is_looked_at_less_often_until_something_moves);
    tcase_add_test(cases, where_little_of_the_budget_is_spent_nothing_presses);
    tcase_add_test(cases, a_quiet_pool_admits_everything);
    tcase_add_test(cases, without_a_cap_everything_is_admitted);
    tcase_add_test(cases, a_cap_that_only_stops_a_surge_denies_nothing_while_a_longer_interval_is_enough);
    tcase_add_test(cases, what_was_held_back_is_admitted_at_once_when_there_is_no_cap_any_more);
    tcase_add_test(cases, rare_actions_get_their_share_beside_busy_ones);
    tcase_add_test(cases, cuts_are_made_at_once_and_raises_by_a_fifth);
    tcase_add_test(cases, a_stratum_that_shows_up_gets_its_share_at_once);
    tcase_add_test(cases, an_unknown_stratum_of_a_busy_pool_gets_the_lowest_probability);
    tcase_add_test(cases, late_admissions_share_a_part_of_the_cap_alike);
    tcase_add_test(cases, a_type_that_was_seen_has_a_stratum_to_itself);
    tcase_add_test(cases, where_no_place_is_left_one_four_times_rarer_gives_way);
    suite_add_tcase(suite, cases);
    return suite_run(suite, CK_FORK);
}
