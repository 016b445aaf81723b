/* What the budget promises, in simulated pools (bench/budget_world.h) of 1 to 10,000 workers. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "bench/budget_world.h"
#include "tests/unit/suite.h"

static const unsigned sizes[] = {1, 8, 100, 1000, 10000};
static const double budgets[] = {0.05, 0.02, 0.005, 0.001};
enum {
    SIZES = sizeof sizes / sizeof *sizes,
    BUDGETS = sizeof budgets / sizeof *budgets,
    PAUSE_MOST_S = 60,
    BRAKE_SEEDS = 4, /* by chance, one seed may do without the brake */
};

static struct world_cycle cycle[WORLD_CYCLES_MOST];

static struct world_scenario scenario_of(const char *name, unsigned workers, double max_overhead)
{
    const struct world_scenario *shape = world_scenarios;
    while (strcmp(shape->name, name) != 0)
        shape++;
    struct world_scenario scenario = *shape;
    scenario.workers = workers;
    scenario.asked.max_overhead = max_overhead;
    return scenario;
}

START_TEST(in_no_window_of_any_scenario_is_the_cap_passed)
{
    for (int i = 0; i < SIZES * BUDGETS; i++) {
        struct world_scenario scenario =
            scenario_of(world_scenarios[_i].name, sizes[i % SIZES], budgets[i / SIZES]);
        if (!world_feasible(&scenario))
            continue;
        world_play(&scenario, 1, cycle);
        double worst = world_worst(&scenario, cycle);
        ck_assert_msg(worst <= scenario.asked.max_overhead, "%s, %u workers, %g: %.5f", scenario.name,
                      scenario.workers, scenario.asked.max_overhead, worst);
        double admitted = 0;
        for (unsigned c = 0; c < scenario.cycles; c++) {
            admitted += cycle[c].admitted;
            if (scenario.asked.cap != 0)
                ck_assert_double_le(cycle[c].admitted, scenario.asked.cap);
        }
        ck_assert_msg(admitted > 0, "%s: nothing was profiled", scenario.name);
    }
}
END_TEST

START_TEST(under_a_steady_load_the_interval_stays_within_a_fifth)
{
    for (const struct world_scenario *shape = world_scenarios; shape->name != NULL; shape++)
        for (int i = 0; i < SIZES * BUDGETS && shape->steady_at != 0; i++) {
            struct world_scenario scenario = scenario_of(shape->name, sizes[i % SIZES], budgets[i / SIZES]);
            if (!world_feasible(&scenario))
                continue;
            world_play(&scenario, 1, cycle);
            double swing = world_swing(&scenario, cycle);
            ck_assert_msg(swing <= 0.2, "%s, %u workers, %g: %.2f", scenario.name, scenario.workers,
                          scenario.asked.max_overhead, swing);
        }
}
END_TEST

/* A pause tells nothing of what profiling costs now: it must end by itself, and be no way to stay steady. */
START_TEST(pauses_are_short_and_few_where_there_is_room)
{
    for (const struct world_scenario *shape = world_scenarios; shape->name != NULL; shape++)
        for (int i = 0; i < SIZES * BUDGETS; i++) {
            struct world_scenario scenario = scenario_of(shape->name, sizes[i % SIZES], budgets[i / SIZES]);
            if (!world_feasible(&scenario))
                continue;
            world_play(&scenario, 1, cycle);
            unsigned paused = 0, longest = 0, now = 0;
            for (unsigned c = scenario.steady_at; c < scenario.cycles; c++) {
                now = cycle[c].limits.paused ? now + 1 : 0;
                paused += now > 0;
                longest = now > longest ? now : longest;
            }
            ck_assert_msg(longest <= PAUSE_MOST_S, "%s, %u workers, %g: %u s", scenario.name,
                          scenario.workers, scenario.asked.max_overhead, longest);
            ck_assert_msg(scenario.asked.max_overhead < 0.02 || scenario.steady_at == 0 ||
                              paused <= (scenario.cycles - scenario.steady_at) / 20,
                          "%s, %u workers, %g: %u s paused", scenario.name, scenario.workers,
                          scenario.asked.max_overhead, paused);
        }
}
END_TEST

START_TEST(when_the_load_falls_the_finest_interval_is_back_within_half_a_minute)
{
    static const double affordable[] = {0.05, 0.02, 0.005};
    for (int i = 0; i < SIZES * 3; i++) {
        struct world_scenario scenario = scenario_of("falls", sizes[i % SIZES], affordable[i / SIZES]);
        /* A hundred cannot pay for it there when the load has fallen, either: an aggregator is as dear for
         * them. */
        if (scenario.asked.max_overhead < 0.02 && scenario.workers <= 100)
            continue;
        world_play(&scenario, 1, cycle);
        ck_assert_msg(cycle[scenario.fallen_at - 1].limits.interval_ns >= 2 * scenario.asked.interval_ns,
                      "the load was not dear");
        unsigned took = world_recovery(&scenario, cycle);
        ck_assert_msg(took <= 30, "%u workers, %g: %u s", scenario.workers, scenario.asked.max_overhead,
                      took);
    }
}
END_TEST

START_TEST(a_spike_after_minutes_of_idling_is_profiled_from_its_first_second_on)
{
    for (int i = 1; i < SIZES; i++) {
        struct world_scenario scenario = scenario_of("idle, then a spike", sizes[i], 0.02);
        world_play(&scenario, 1, cycle);
        unsigned spikes = 0;
        for (unsigned c = 1; c < scenario.cycles; c++) {
            if (cycle[c].load <= 0 || cycle[c - 1].load > 0)
                continue;
            spikes++;
            ck_assert_double_ge(cycle[c].admitted, 1);
            ck_assert_uint_le(cycle[c - 1].limits.interval_ns, 2 * scenario.asked.interval_ns);
        }
        ck_assert_uint_eq(spikes, 3);
    }
}
END_TEST

START_TEST(small_loads_of_a_pool_of_eight_have_all_the_detail)
{
    struct world_scenario scenario = scenario_of("steady", 8, 0.02);
    world_play(&scenario, 1, cycle);
    for (unsigned c = 0; c < scenario.cycles; c++) {
        ck_assert_uint_eq(cycle[c].limits.interval_ns, scenario.asked.interval_ns);
        ck_assert_uint_eq(cycle[c].limits.granularity, scenario.asked.granularity);
    }
}
END_TEST

static unsigned paused(const struct world_scenario *scenario)
{
    unsigned n = 0;
    world_play(scenario, 1, cycle);
    for (unsigned c = 0; c < scenario->cycles; c++)
        n += cycle[c].limits.paused;
    return n;
}

START_TEST(a_worker_that_lies_takes_nothing_from_the_others)
{
    struct world_scenario scenario = scenario_of("liar", 8, 0.02);
    ck_assert_uint_eq(paused(&scenario), 0);
    /* … because it is not believed. */
    scenario.lie = WORLD_UNCHECKED;
    ck_assert_uint_gt(paused(&scenario), scenario.cycles / 2);
}
END_TEST

START_TEST(without_the_brake_the_cap_would_be_passed)
{
    double worst = 0;
    for (const struct world_scenario *shape = world_scenarios; shape->name != NULL; shape++)
        for (int i = 0; i < SIZES * BRAKE_SEEDS; i++) {
            struct world_scenario scenario = scenario_of(shape->name, sizes[i % SIZES], 0.02);
            scenario.unbraked = true;
            world_play(&scenario, 1 + (uint64_t)i / SIZES, cycle);
            double passed = world_worst(&scenario, cycle);
            worst = passed > worst ? passed : worst;
        }
    ck_assert_double_gt(worst, 0.02);
}
END_TEST

int main(void)
{
    int scenarios = 0;
    while (world_scenarios[scenarios].name != NULL)
        scenarios++;
    Suite *suite = suite_create("budget_sim");
    TCase *cases = tcase_create("promises");
    tcase_set_timeout(cases, 120);
    tcase_add_loop_test(cases, in_no_window_of_any_scenario_is_the_cap_passed, 0, scenarios);
    tcase_add_test(cases, under_a_steady_load_the_interval_stays_within_a_fifth);
    tcase_add_test(cases, when_the_load_falls_the_finest_interval_is_back_within_half_a_minute);
    tcase_add_test(cases, a_spike_after_minutes_of_idling_is_profiled_from_its_first_second_on);
    tcase_add_test(cases, small_loads_of_a_pool_of_eight_have_all_the_detail);
    tcase_add_test(cases, a_worker_that_lies_takes_nothing_from_the_others);
    tcase_add_test(cases, pauses_are_short_and_few_where_there_is_room);
    tcase_add_test(cases, without_the_brake_the_cap_would_be_passed);
    suite_add_tcase(suite, cases);
    return suite_run(suite, CK_FORK);
}
