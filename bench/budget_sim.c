/*
 * The budget's controller among simulated pools: from 1 to 10,000 workers, under loads that try it.
 *
 * - budget_sim: every scenario, pool size and budget, a line each; status 1 if a promise is broken
 * - budget_sim --seeds N: the same with N seeds, and only the lines of what breaks a promise (marked by !)
 * - budget_sim NAME WORKERS RATIO: one of them, second by second
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "aggregator/admission.h"
#include "aggregator/history.h"
#include "bench/budget_world.h"
#include "shm/clock.h"

static const unsigned sizes[] = {1, 8, 100, 1000, 10000};
static const double budgets[] = {0.05, 0.02, 0.005, 0.001};
#define SWING_MOST 0.2 /* of the interval, from its mean, under a steady load */

static struct world_scenario made(const struct world_scenario *shape, unsigned workers, double max_overhead)
{
    struct world_scenario scenario = *shape;
    scenario.workers = workers;
    scenario.asked.max_overhead = max_overhead;
    return scenario;
}

static void print_seconds(const struct world_scenario *scenario, const struct world_cycle *cycle)
{
    printf("second load overhead interval_ms granularity cap paused demand admitted ours_ms workers_ms "
           "reason\n");
    for (unsigned c = 0; c < scenario->cycles; c++)
        printf("%u %.2f %.5f %.1f %u %u %d%s%s %.0f %.0f %.2f %.0f %s\n", c, cycle[c].load, cycle[c].overhead,
               (double)cycle[c].limits.interval_ns / 1e6, cycle[c].limits.granularity, cycle[c].limits.cap,
               cycle[c].limits.paused, cycle[c].braked ? "b" : "", cycle[c].limits.passthrough ? "t" : "",
               cycle[c].demand, cycle[c].admitted, cycle[c].ours_cpu * 1e3, cycle[c].worker_cpu * 1e3,
               budget_reason_text(cycle[c].limits.reason));
}

/* One line; true if it kept its promise. */
static bool play(const struct world_scenario *scenario, uint64_t seed, bool always)
{
    static struct world_cycle cycle[WORLD_CYCLES_MOST];
    double mean = 0;
    unsigned paused = 0;
    world_play(scenario, seed, cycle);
    double worst = world_worst(scenario, cycle);
    double swing = scenario->steady_at != 0 ? world_swing(scenario, cycle) : 0.0;
    bool capped = worst <= scenario->asked.max_overhead, even = swing <= SWING_MOST;
    for (unsigned c = 0; c < scenario->cycles; c++) {
        mean += (double)cycle[c].limits.interval_ns / 1e6 / scenario->cycles;
        paused += cycle[c].limits.paused;
    }
    if (capped && even && !always)
        return true;
    printf("%-20s %7u %7.4f %8.5f%s %8.1f", scenario->name, scenario->workers, scenario->asked.max_overhead,
           worst, capped ? " " : "!", mean);
    printf(" %6.2f%s", swing, even ? " " : "!");
    printf(" %8u %7u\n", scenario->fallen_at != 0 ? world_recovery(scenario, cycle) : 0, paused);
    return capped && even;
}

static bool play_all(uint64_t seed, bool always)
{
    bool kept = true;
    for (const struct world_scenario *shape = world_scenarios; shape->name != NULL; shape++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            for (size_t j = 0; j < sizeof budgets / sizeof *budgets; j++) {
                struct world_scenario scenario = made(shape, sizes[i], budgets[j]);
                if (world_feasible(&scenario))
                    kept &= play(&scenario, seed, always);
            }
    return kept;
}

static int play_one(const char *name, unsigned workers, double max_overhead)
{
    static struct world_cycle cycle[WORLD_CYCLES_MOST];
    for (const struct world_scenario *shape = world_scenarios; shape->name != NULL; shape++)
        if (strcmp(name, shape->name) == 0) {
            struct world_scenario scenario = made(shape, workers, max_overhead);
            world_play(&scenario, 1, cycle);
            print_seconds(&scenario, cycle);
            return 0;
        }
    fprintf(stderr, "budget_sim: there is no scenario \"%s\"\n", name);
    return 2;
}

static int list(void)
{
    for (const struct world_scenario *shape = world_scenarios; shape->name != NULL; shape++)
        printf("%s: %s\n", shape->name, shape->tells);
    return 0;
}

/* Ten thousand workers are one sum to it; what grows is the strata, and they are all in use here. */
static int step(void)
{
    enum { STEPS = 1000, WORKERS = 10000 };
    static struct budget_state state;
    static struct admission admission;
    static struct history history;
    static uint64_t demand[STRATA];
    static uint32_t probability[STRATA];
    struct budget_asked asked = {.max_overhead = 0.02, .interval_ns = 10000000, .cap = 10};
    struct budget_limits limits = {.interval_ns = asked.interval_ns, .cap = asked.cap};
    uint64_t start = clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
    for (unsigned i = 0; i < STEPS; i++) {
        struct budget_measure measure = {.seconds = 1,
                                         .sampler_cpu = 2 + i % 7,
                                         .hook_cpu = 1,
                                         .aggregator_cpu = 0.1,
                                         .worker_cpu = 900,
                                         .attached = WORKERS,
                                         .demand = 1e6,
                                         .admitted = 7};
        struct budget_limits before = limits;
        for (unsigned s = 0; s < STRATA; s++)
            demand[s] = 1 + (s * 7919 + i) % 5000;
        budget_step(&state, &asked, &measure, &limits);
        admission_step(&admission, demand, limits.lottery, probability);
        history_note(&history, &measure, &before, &limits, budget_overhead(&state), i);
    }
    printf("%.1f\n", (double)(clock_read_ns(CLOCK_THREAD_CPUTIME_ID) - start) / 1e3 / STEPS);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--list") == 0)
        return list();
    if (argc == 2 && strcmp(argv[1], "--step") == 0)
        return step();
    if (argc == 4)
        return play_one(argv[1], (unsigned)atoi(argv[2]), atof(argv[3]));
    uint64_t seeds = argc == 3 && strcmp(argv[1], "--seeds") == 0 ? strtoull(argv[2], NULL, 10) : 1;
    bool kept = true;
    printf("%-20s %7s %7s %8s  %8s %6s %9s %7s\n", "scenario", "workers", "budget", "worst", "mean ms",
           "swing", "recovery", "paused");
    for (uint64_t seed = 1; seed <= seeds; seed++)
        kept &= play_all(seed, seeds == 1);
    return kept ? 0 : 1;
}
