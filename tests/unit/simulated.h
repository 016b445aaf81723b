/*
 * A simulated pool: endpoints whose cost by line is known do actions in simulated time. The worker's own code
 * draws which of them are profiled (runtime/limits.c, shm/budget.h), the aggregator's own code sets the
 * probabilities (admission.c), counts (taken.c), merges, and closes windows. What was done is summed up
 * beside it. Header-only, because each test is a program of one file.
 *
 * A cycle is a second, a window ten. In one cycle of ten there is a burst of three times the traffic, and
 * within each cycle what varies takes longer and longer, so that it matters who is cut off when the cap is
 * near.
 */
#ifndef TESTS_SIMULATED_H
#define TESTS_SIMULATED_H

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "aggregator/admission.h"
#include "aggregator/merge.h"
#include "aggregator/pages.h"
#include "aggregator/taken.h"
#include "runtime/limits.h"
#include "tests/unit/synthetic.h"

enum {
    SIMULATED_STRETCHES = 3,
    SIMULATED_ENDPOINTS = 256,
    SIMULATED_CYCLES = 10, /* a window */
    SIMULATED_INTERVAL_NS = 10000000,
};

/** A stretch of an action on one line. */
struct simulated_stretch {
    const char *line;
    enum sample_state state;
    double ms;   /* on average, where it is done at all */
    double odds; /* of being done; 0: no such stretch */
    bool varies; /* exponentially; else evenly, by half of it up and down */
};

/** One way into an action type: what is known at the begin, and what is then done. */
struct simulated_endpoint {
    const char *hint, *type;
    double rate; /* actions a cycle, on average but for bursts */
    struct simulated_stretch stretch[SIMULATED_STRETCHES];
};

/** What was done at one endpoint, and what its stretches come to. */
struct simulated_truth {
    uint64_t count, profiled, late, latency_ns;
    double stretch_ns[SIMULATED_STRETCHES], delay_ns; /* delay: ready without a core */
    uint64_t bucket[HISTOGRAM_BUCKETS];
};

enum simulated_fault {
    SIMULATED_SOUND,
    SIMULATED_UNWEIGHTED,  /* each profiled action is taken for one */
    SIMULATED_FIRST_COMES, /* no lottery: the cap serves whoever comes first */
    SIMULATED_LATE_DOUBLE, /* those admitted at their begin stand for all others to their end, beside late
                              ones */
    SIMULATED_LATE_EARLY,  /* of those admitted late what they did before counts as well */
};

struct simulated {
    const struct simulated_endpoint *endpoint;
    unsigned endpoints;
    uint32_t cap;
    enum simulated_fault fault;
    struct synthetic directory;
    struct pages pages;
    struct admission admission;
    struct admission_late late;
    struct merge merge;
    struct taken taken;
    struct counters *counters;
    uint64_t now_ns, serial, cycle, random[2];
    double share[SIMULATED_ENDPOINTS];                             /* of the traffic, cumulated */
    uint32_t type[SIMULATED_ENDPOINTS], hash[SIMULATED_ENDPOINTS]; /* hash: of the hint */
    uint32_t stack[SIMULATED_ENDPOINTS][SIMULATED_STRETCHES];
    struct simulated_truth truth[SIMULATED_ENDPOINTS]; /* of the open window */
    uint64_t most;                                     /* tokens that one cycle gave out */
};

/* xorshift128+ (Vigna): the same numbers everywhere. */
static inline uint64_t simulated_random(struct simulated *s)
{
    uint64_t x = s->random[0], y = s->random[1];
    s->random[0] = y;
    x ^= x << 23;
    s->random[1] = x ^ y ^ (x >> 17) ^ (y >> 26);
    return s->random[1] + y;
}

/** Evenly in (0, 1). */
static inline double simulated_uniform(struct simulated *s)
{
    return ((double)(simulated_random(s) >> 11) + 0.5) / 9007199254740992.0;
}

static inline void simulated_publish(struct simulated *s, const uint32_t probability[STRATA])
{
    struct rates rates = {
        .interval_ns = SIMULATED_INTERVAL_NS,
        .cycle_ns = NS_PER_SECOND,
        .cap = s->cap,
        .granularity = GRANULARITY_LINE,
    };
    for (unsigned i = 0; i < STRATA; i++)
        rates.probability[i] = s->fault == SIMULATED_FIRST_COMES ? UINT32_MAX : probability[i];
    memcpy(rates.owner, s->admission.owner, sizeof rates.owner);
    memcpy(rates.late_after_us, s->late.after_us, sizeof rates.late_after_us);
    memcpy(rates.late_probability, s->late.probability, sizeof rates.late_probability);
    ck_assert(pages_publish(&s->pages, &rates));
}

static inline uint32_t simulated_stack(struct simulated *s, uint32_t parent, const char *line)
{
    return stacks_child(&s->merge.stacks, parent, names_intern(&s->merge.instructions, line, strlen(line)));
}

static inline void simulated_open(struct simulated *s, const struct simulated_endpoint *endpoint,
                                  unsigned endpoints, uint32_t cap, enum simulated_fault fault, uint64_t seed)
{
    double all = 0, sum = 0;
    uint32_t probability[STRATA];
    memset(s, 0, sizeof *s);
    memset(probability, 0xff, sizeof probability);
    s->endpoint = endpoint;
    s->endpoints = endpoints;
    s->cap = cap;
    s->fault = fault;
    s->random[0] = seed;
    s->random[1] = 0x9e3779b97f4a7c15;
    s->now_ns = 1000 * NS_PER_SECOND;
    ck_assert_uint_le(endpoints, SIMULATED_ENDPOINTS);
    ck_assert_ptr_nonnull(s->counters = calloc(1, sizeof *s->counters));
    ck_assert_int_eq(merge_open(&s->merge, s->now_ns, s->now_ns), 0);
    synthetic_directory(&s->directory);
    ck_assert_int_eq(pages_open(&s->pages, s->directory.pool, geteuid()), 0);
    simulated_publish(s, probability);
    limits_use(s->directory.pool);
    ck_assert_int_eq(limits_refresh(), 0);
    for (unsigned e = 0; e < endpoints; e++)
        all += endpoint[e].rate;
    for (unsigned e = 0; e < endpoints; e++) {
        const struct simulated_endpoint *of = &endpoint[e];
        s->share[e] = sum += of->rate / all;
        s->type[e] = names_intern(&s->merge.types, of->type, strlen(of->type));
        s->hash[e] = hash_bytes(of->hint, strlen(of->hint));
        uint32_t root = simulated_stack(s, 0, "app.py:application:1");
        for (unsigned i = 0; i < SIMULATED_STRETCHES && of->stretch[i].odds > 0; i++)
            s->stack[e][i] = simulated_stack(s, root, of->stretch[i].line);
    }
}

static inline void simulated_close(struct simulated *s)
{
    merge_close(&s->merge);
    taken_close(&s->taken);
    pages_close(&s->pages);
    free(s->counters);
    synthetic_remove_tree(s->directory.directory);
}

/* What one action does: how long each stretch takes. */
static inline void simulated_do(struct simulated *s, const struct simulated_endpoint *endpoint, double slower,
                                double ns[SIMULATED_STRETCHES])
{
    for (unsigned i = 0; i < SIMULATED_STRETCHES; i++) {
        const struct simulated_stretch *stretch = &endpoint->stretch[i];
        ns[i] = 0;
        if (stretch->odds <= 0 || (stretch->odds < 1 && simulated_uniform(s) >= stretch->odds))
            continue;
        double u = simulated_uniform(s);
        ns[i] = floor(1e6 * stretch->ms * (stretch->varies ? slower * -log(u) : 0.5 + u));
    }
}

static inline bool simulated_runs(enum sample_state state)
{
    return state == STATE_CPU || state == STATE_NATIVE;
}

/* One tick in each interval, at any moment of it; the action begins at any moment of the first one. */
static inline void simulated_sample(struct simulated *s, unsigned e, const double ns[SIMULATED_STRETCHES],
                                    double due_ns)
{
    double total = 0, interval = SIMULATED_INTERVAL_NS, from = -simulated_uniform(s) * interval;
    for (unsigned i = 0; i < SIMULATED_STRETCHES; i++)
        total += ns[i];
    for (; from < total; from += interval) {
        double tick = from + simulated_uniform(s) * interval;
        if (tick < due_ns || tick >= total)
            continue;
        unsigned i = 0;
        for (double left = tick; left >= ns[i]; i++)
            left -= ns[i];
        struct record_sample sample = {
            .time_ns = s->now_ns + (uint64_t)tick,
            .action_serial = s->serial,
            .state = s->endpoint[e].stretch[i].state,
            .wall_ns = SIMULATED_INTERVAL_NS,
        };
        sample.cpu_ns = simulated_runs(sample.state) ? sample.wall_ns : 0;
        merge_sample(&s->merge, 1, s->stack[e][i], &sample);
    }
}

static inline void simulated_profile(struct simulated *s, unsigned e, const double ns[SIMULATED_STRETCHES],
                                     uint64_t latency_ns, double ran_ns, double delay_ns,
                                     const struct limits_draw *draw)
{
    const bool sound = s->fault != SIMULATED_UNWEIGHTED && s->fault != SIMULATED_FIRST_COMES;
    const bool early = s->fault == SIMULATED_LATE_EARLY;
    double due_ns = draw->candidate ? (early ? 1 : draw->late.after_us) * 1e3 : 0;
    struct record_begin begin = {
        .time_ns = s->now_ns,
        .action_serial = ++s->serial,
        .header.flags = draw->candidate ? BEGIN_CANDIDATE : 0,
        .probability = sound ? draw->probability : UINT32_MAX,
        .interval_us = SIMULATED_INTERVAL_NS / 1000,
        .granularity = GRANULARITY_LINE,
        .late_after_us = draw->late.after_us != 0 && early && draw->candidate ? 1 : draw->late.after_us,
        .late_probability = sound ? draw->late.probability : UINT32_MAX,
    };
    if (s->fault == SIMULATED_LATE_DOUBLE && !draw->candidate)
        begin.late_after_us = 0;
    struct record_end end = {
        .header.flags = draw->candidate ? END_LATE : END_HAS_RUN_DELAY,
        .time_ns = s->now_ns,
        .action_serial = s->serial,
        .latency_ns = latency_ns,
        .cpu_ns = (uint64_t)(ran_ns - delay_ns),
        .run_delay_ns = (uint64_t)delay_ns,
    };
    ck_assert_int_eq(merge_begin(&s->merge, 1, s->type[e], &begin), 0);
    simulated_sample(s, e, ns, due_ns);
    merge_end(&s->merge, 1, s->type[e], &end);
}

static inline void simulated_act(struct simulated *s, unsigned e, double slower, uint64_t demand[STRATA])
{
    const struct simulated_endpoint *endpoint = &s->endpoint[e];
    struct simulated_truth *truth = &s->truth[e];
    double ns[SIMULATED_STRETCHES], ran_ns = 0;
    uint64_t latency_ns = 0;
    struct limits_draw draw;
    simulated_do(s, endpoint, slower, ns);
    for (unsigned i = 0; i < SIMULATED_STRETCHES; i++) {
        latency_ns += (uint64_t)ns[i];
        truth->stretch_ns[i] += ns[i];
        ran_ns += simulated_runs(endpoint->stretch[i].state) ? ns[i] : 0;
    }
    double delay_ns = floor(0.2 * simulated_uniform(s) * ran_ns);
    uint32_t stratum = limits_stratum(s->hash[e]);
    demand[stratum]++;
    enum denial denial = limits_admit(stratum, s->now_ns, (uint32_t)(simulated_random(s) >> 32), &draw);
    /* A token for a late admission is taken as if its moment were now. */
    bool late =
        draw.candidate && (double)latency_ns > draw.late.after_us * 1e3 && limits_admit_late(s->now_ns);
    if (denial == DENIALS || late)
        simulated_profile(s, e, ns, latency_ns, ran_ns, delay_ns, &draw);
    counters_add(s->counters, s->type[e], latency_ns, false, denial);
    truth->count++;
    truth->profiled += denial == DENIALS;
    truth->late += late;
    truth->latency_ns += latency_ns;
    truth->delay_ns += delay_ns;
    truth->bucket[histogram_bucket(latency_ns)]++;
}

static inline void simulated_cycle(struct simulated *s)
{
    uint64_t demand[STRATA] = {0}, begin_ns = s->now_ns;
    uint32_t probability[STRATA];
    double rate = 0, burst = simulated_uniform(s) < 0.1 ? 3 : 1;
    for (unsigned e = 0; e < s->endpoints; e++)
        rate += s->endpoint[e].rate;
    unsigned actions = (unsigned)(rate * burst);
    ck_assert(pages_heartbeat(&s->pages, begin_ns));
    for (unsigned i = 0; i < actions; i++) {
        double at = (i + simulated_uniform(s)) / actions, which = simulated_uniform(s);
        unsigned e = 0;
        while (e + 1 < s->endpoints && which >= s->share[e])
            e++;
        s->now_ns = begin_ns + (uint64_t)(at * 1e9);
        simulated_act(s, e, 0.7 + 0.6 * at, demand);
    }
    s->now_ns = begin_ns + NS_PER_SECOND;
    s->merge.round++;
    merge_close_ended(&s->merge, s->merge.round);
    ck_assert_int_eq(taken_reserve(&s->taken, COUNTER_TYPES, HISTOGRAM_BLOCKS), 0);
    for (uint32_t row = 1; row < names_count(&s->merge.types); row++)
        ck_assert_int_eq(
            taken_row(&s->taken, &s->merge, row, row, &s->counters->row[row], s->counters->block), 0);
    struct admission_moment moment[STRATA_OWNED] = {0};
    for (uint32_t type = 1; type < names_count(&s->merge.types); type++) {
        const char *name = names_text(&s->merge.types, type);
        uint32_t hash = hash_bytes(name, strlen(name));
        if (s->merge.ended[type] != 0)
            admission_own(&s->admission, hash, s->merge.ended[type]);
        s->merge.ended[type] = 0;
        uint32_t place = admission_place(&s->admission, hash);
        if (place != STRATA)
            moment[place].after_ns =
                merge_slow_after(&s->merge, type, SIMULATED_INTERVAL_NS, &moment[place].beyond);
    }
    admission_step(&s->admission, demand, s->cap, probability);
    admission_late(&s->admission, moment, s->cap, probability, &s->late);
    simulated_publish(s, probability);
    if (s->most < pages_peak(&s->pages))
        s->most = pages_peak(&s->pages);
}

/** Ten cycles. The window, complete but not rescaled, belongs to the caller; `truth` is what was done in it.
 */
static inline struct window *simulated_window(struct simulated *s)
{
    memset(s->truth, 0, sizeof s->truth);
    for (unsigned cycle = 0; cycle < SIMULATED_CYCLES; cycle++)
        simulated_cycle(s);
    struct window *window = s->merge.open;
    window->end_ns = window->end_real_ns = s->now_ns;
    ck_assert_ptr_nonnull(s->merge.open = window_new(s->now_ns, s->now_ns));
    merge_fade(&s->merge);
    return window;
}

#endif
