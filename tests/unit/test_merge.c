/* What merging promises: samples find their actions, weights and classes are right, bounds hold. */
#include <check.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "aggregator/encode/classic.h"
#include "aggregator/encode/report.h"
#include "aggregator/merge.h"
#include "shm/rates.h"
#include "tests/unit/suite.h"

#define MS UINT64_C(1000000)

static struct merge merge;

static void set_up(void)
{
    ck_assert_int_eq(merge_open(&merge, 0, 0), 0);
}

static void tear_down(void)
{
    merge_close(&merge);
}

static uint32_t type_named(const char *name)
{
    return names_intern(&merge.types, name, strlen(name));
}

static uint32_t stack_of(uint32_t parent, const char *instruction)
{
    return stacks_child(&merge.stacks, parent,
                        names_intern(&merge.instructions, instruction, strlen(instruction)));
}

static void begin(uint64_t serial, uint64_t parent, uint32_t type, double p, uint64_t time_ns)
{
    struct record_begin record = {
        .time_ns = time_ns,
        .action_serial = serial,
        .parent_serial = parent,
        .probability = p >= 1 ? UINT32_MAX : (uint32_t)(p * 4294967296.0) - 1,
        .granularity = GRANULARITY_LINE,
    };
    ck_assert_int_eq(merge_begin(&merge, 1, type, &record), 0);
}

static void sample(uint64_t serial, uint32_t stack, enum sample_state state, uint64_t wall_ns,
                   uint64_t time_ns)
{
    struct record_sample record = {
        .time_ns = time_ns, .action_serial = serial, .state = state, .wall_ns = wall_ns};
    merge_sample(&merge, 1, stack, &record);
}

static void end(uint64_t serial, uint32_t type, uint64_t latency_ns, uint64_t time_ns)
{
    struct record_end record = {.time_ns = time_ns, .action_serial = serial, .latency_ns = latency_ns};
    merge_end(&merge, 1, type, &record);
}

static void count(uint32_t type, uint64_t n, uint64_t latency_ns)
{
    struct merge_count add = {.count = n, .latency_sum_ns = n * latency_ns, .latency_max_ns = latency_ns};
    struct type_totals *totals = merge_count(&merge, type, &add);
    merge_bucket(&merge, totals, histogram_bucket(latency_ns), n);
}

/* Wall time of a type in all states, weighted, ns. */
static double sampled(uint32_t type)
{
    double sum = 0;
    const struct profile *profile = &merge.open->profile;
    for (uint32_t i = 0; i < profile->cells; i++)
        for (int state = 0; state < SAMPLE_STATES; state++)
            sum += profile->cell[i].type == type ? profile->cell[i].wall[state] : 0;
    return sum;
}

static json_t *report(uint32_t limit, bool stacks)
{
    struct windows windows = {0};
    struct report_facts facts = {.source = "unit", .cap = 10, .cycle_ms = 1000, .max_overhead = 0.02};
    struct report_options options = {.limit = limit, .stacks = stacks};
    ck_assert_int_eq(windows_publish(&windows, merge.open), 0);
    json_t *json = report_build(&merge, windows.published, &facts, &options);
    ck_assert_ptr_nonnull(json);
    windows_free(&windows);
    return json;
}

static double real_at(const json_t *json, const char *key)
{
    ck_assert_msg(json_is_number(json_object_get(json, key)), "no number %s", key);
    return json_number_value(json_object_get(json, key));
}

START_TEST(a_sample_counts_with_the_weight_of_its_action)
{
    uint32_t type = type_named("a"), stack = stack_of(0, "f.py:f:1");
    begin(1, 0, type, 0.25, 0);
    sample(1, stack, STATE_CPU, 10 * MS, 1);
    end(1, type, 12 * MS, 12 * MS);
    ck_assert_double_eq(sampled(type), 0);
    merge.round++;
    merge_close_ended(&merge, merge.round);
    ck_assert_double_eq_tol(sampled(type), 4 * 10.0 * MS, 1);
    ck_assert_uint_eq(merge.actions.actions_used, 0);
    ck_assert_uint_eq(merge.actions.samples_used, 0);
}
END_TEST

static void count_told(const struct merge *from, uint32_t root, void *context)
{
    (void)from;
    (void)root;
    ++*(unsigned *)context;
}

enum { LATE_AFTER_US = 100 };

/* One that begins at 0 and is drawn with 1/8 then, with 1/2 from its moment on. */
static void begin_with_a_moment(uint64_t serial, uint32_t type, bool candidate)
{
    struct record_begin record = {
        .header.flags = candidate ? BEGIN_CANDIDATE : 0,
        .action_serial = serial,
        .probability = UINT32_MAX / 8,
        .granularity = GRANULARITY_LINE,
        .late_after_us = LATE_AFTER_US,
        .late_probability = UINT32_MAX / 2,
    };
    ck_assert_int_eq(merge_begin(&merge, 1, type, &record), 0);
}

static void end_candidate(uint64_t serial, uint32_t type, bool late)
{
    struct record_end record = {.header.flags = late ? END_LATE : 0,
                                .time_ns = 300000,
                                .action_serial = serial,
                                .latency_ns = 300000};
    merge_end(&merge, 1, type, &record);
}

static void close_all(void)
{
    merge.round += 2;
    merge_close_ended(&merge, merge.round);
    ck_assert_uint_eq(merge.actions.actions_used, 0);
    ck_assert_uint_eq(merge.actions.samples_used, 0);
}

START_TEST(from_its_moment_on_an_action_stands_for_as_many_as_are_sampled_then)
{
    uint32_t type = type_named("a"), line = stack_of(0, "a.py:f:1");
    begin_with_a_moment(1, type, false);
    sample(1, line, STATE_CPU, 10, 99999);
    sample(1, line, STATE_CPU, 10, 100000);
    end(1, type, 300000, 300000);
    close_all();
    ck_assert_double_eq_tol(sampled(type), 8 * 10 + 2 * 10, 1e-3);
    const struct type_totals *totals = profile_find_type(&merge.open->profile, type);
    ck_assert_double_eq_tol(totals->weight, 8, 1e-6);
    ck_assert_uint_eq(totals->late, 0);
    /* Squares of (w z): (8 10)² + (2 10)² + 2 (8 10) (2 10), in s². */
    ck_assert_double_eq_tol((double)totals->spread.all.shed + (double)totals->spread.all.kept,
                            100.0 * 100.0 / 1e18, 1e-3 * 1e-14);
}
END_TEST

START_TEST(of_an_action_admitted_late_only_what_comes_then_counts)
{
    uint32_t type = type_named("a"), line = stack_of(0, "a.py:f:1");
    begin_with_a_moment(1, type, true);
    sample(1, line, STATE_CPU, 10, 50000); /* its thread was looked at for another action */
    sample(1, line, STATE_CPU, 10, 200000);
    end_candidate(1, type, true);
    close_all();
    ck_assert_double_eq_tol(sampled(type), 2 * 10, 1e-3);
    const struct type_totals *totals = profile_find_type(&merge.open->profile, type);
    ck_assert_uint_eq(totals->late, 1);
    ck_assert_uint_eq(totals->ended, 0);
    ck_assert_double_eq(totals->weight, 0);
}
END_TEST

START_TEST(a_candidate_that_was_never_admitted_leaves_nothing)
{
    uint32_t type = type_named("a"), line = stack_of(0, "a.py:f:1");
    unsigned told = 0;
    merge.on_root = count_told;
    merge.context = &told;
    for (uint64_t serial = 1; serial <= 3; serial++) {
        begin_with_a_moment(serial, type, true);
        if (serial == 2)
            sample(serial, line, STATE_CPU, 10, 200000); /* a task that its thread has changed to */
        end_candidate(serial, type, serial == 3);
    }
    close_all();
    ck_assert_double_eq(sampled(type), 0);
    ck_assert_uint_eq(profile_find_type(&merge.open->profile, type)->late, 1);
    ck_assert_uint_eq(told, 0); /* nor does one that was, as its story has no beginning */
}
END_TEST

START_TEST(an_ended_action_waits_for_samples_that_were_on_their_way)
{
    uint32_t type = type_named("a"), stack = stack_of(0, "f.py:f:1");
    begin(1, 0, type, 1, 0);
    end(1, type, 12 * MS, 12 * MS);
    merge_close_ended(&merge, merge.round); /* the round in which the end was read */
    merge.round++;
    sample(1, stack, STATE_CPU, 10 * MS, 1);
    merge_close_ended(&merge, merge.round);
    ck_assert_double_eq_tol(sampled(type), 10.0 * MS, 1);
    sample(1, stack, STATE_CPU, 10 * MS, 1); /* too late: told, not guessed */
    ck_assert_uint_eq(merge.open->sums.late, 1);
}
END_TEST

START_TEST(a_nested_actions_samples_count_for_all_that_encloses_it)
{
    uint32_t outer = type_named("outer"), middle = type_named("middle"), inner = type_named("inner");
    uint32_t stack = stack_of(stack_of(0, "a.py:a:1"), "b.py:b:2");
    begin(1, 0, outer, 1, 0);
    begin(2, 1, middle, 1, 1);
    begin(3, 2, inner, 1, 2);
    sample(3, stack, STATE_CPU, 5 * MS, 3);
    end(3, inner, 5 * MS, 4);
    end(2, middle, 6 * MS, 5);
    sample(1, stack, STATE_CPU, 1 * MS, 6);
    end(1, outer, 7 * MS, 7);
    merge.round++;
    merge_close_ended(&merge, merge.round);
    ck_assert_double_eq_tol(sampled(inner), 5.0 * MS, 1);
    ck_assert_double_eq_tol(sampled(middle), 5.0 * MS, 1);
    ck_assert_double_eq_tol(sampled(outer), 6.0 * MS, 1);
    ck_assert_uint_eq(merge.actions.actions_used, 0);
}
END_TEST

START_TEST(alike_actions_of_one_root_are_one_draw_however_many)
{
    enum { MANY = 2 * ACTIONS_NESTED_TOLD + 88 }; /* more than are kept for the root's message */
    uint32_t outer = type_named("outer"), inner = type_named("inner");
    begin(1, 0, outer, 0.5, 0);
    for (uint64_t serial = 2; serial < 2 + MANY; serial++) {
        begin(serial, 1, inner, 0.5, 1);
        struct record_end record = {
            .header.flags = END_HAS_RUN_DELAY, .action_serial = serial, .run_delay_ns = 1000 * MS};
        merge_end(&merge, 1, inner, &record);
    }
    merge.round++;
    merge_close_ended(&merge, merge.round);
    const struct type_totals *totals = profile_type(&merge.open->profile, inner);
    ck_assert_uint_eq(totals->ended, MANY);
    ck_assert_double_eq_tol((double)totals->spread.run_own.shed / (2.0 * MANY * MANY), 1,
                            0.001); /* weight 2, of 1 s each */
    ck_assert_uint_eq(merge.actions.actions_used, 1 + ACTIONS_NESTED_TOLD);
}
END_TEST

START_TEST(ends_may_come_in_any_order_and_twice)
{
    uint32_t type = type_named("a"), stack = stack_of(0, "f.py:f:1");
    begin(1, 0, type, 1, 0);
    begin(2, 1, type, 1, 0);
    sample(2, stack, STATE_CPU, 5 * MS, 3);
    end(1, type, 5 * MS, 4);
    end(1, type, 5 * MS, 4);
    merge.round++;
    merge_close_ended(&merge, merge.round);
    end(2, type, 5 * MS, 9);
    end(99, type, 5 * MS, 9);
    merge.round++;
    merge_close_ended(&merge, merge.round);
    ck_assert_uint_eq(merge.actions.actions_used, 0);
    ck_assert_uint_eq(merge.actions.ended, 0);
    ck_assert_uint_eq(profile_find_type(&merge.open->profile, type)->ended, 2);
}
END_TEST

START_TEST(an_action_cannot_begin_twice)
{
    uint32_t type = type_named("a");
    struct record_begin again = {.action_serial = 7}, none = {.action_serial = 0};
    begin(7, 0, type, 1, 0);
    ck_assert_int_lt(merge_begin(&merge, 1, type, &again), 0);
    ck_assert_int_lt(merge_begin(&merge, 1, type, &none), 0);
    ck_assert_int_eq(merge_begin(&merge, 2, type, &again), 0); /* another worker's 7 */
}
END_TEST

START_TEST(what_a_dead_worker_left_open_is_counted_as_unfinished)
{
    uint32_t type = type_named("a"), stack = stack_of(0, "f.py:f:1");
    begin(1, 0, type, 1, 0);
    begin(2, 1, type, 1, 0);
    sample(2, stack, STATE_CPU, 5 * MS, 3);
    merge_forget_worker(&merge, 1);
    ck_assert_uint_eq(merge.open->sums.unfinished, 2);
    ck_assert_uint_eq(merge.actions.actions_used, 0);
    ck_assert_uint_eq(merge.actions.samples_used, 0);
}
END_TEST

START_TEST(past_the_bound_of_samples_the_oldest_action_is_folded_and_no_time_is_lost)
{
    uint32_t type = type_named("a"), stack = stack_of(0, "f.py:f:1");
    uint32_t n = ACTIONS_SAMPLES_MOST / 2 + 10;
    begin(1, 0, type, 1, 0);
    begin(2, 0, type, 1, 0);
    for (uint32_t i = 0; i < n; i++) {
        sample(1, stack, STATE_CPU, 1, i);
        sample(2, stack, STATE_BLOCKED, 1, i);
    }
    ck_assert_uint_eq(merge.open->sums.folded, 1);
    ck_assert_uint_le(merge.actions.samples_used, ACTIONS_SAMPLES_MOST);
    end(1, type, 1, n);
    end(2, type, 1, n);
    merge.round++;
    merge_close_ended(&merge, merge.round);
    ck_assert_double_eq(sampled(type), 2.0 * n);
}
END_TEST

START_TEST(the_oldest_that_holds_samples_is_known_when_an_older_one_has_gone)
{
    uint32_t type = type_named("a");
    begin(1, 0, type, 1, 0);
    begin(2, 0, type, 1, 1);
    ck_assert_uint_eq(actions_oldest_unfolded(&merge.actions), actions_find(&merge.actions, 1, 1));
    end(1, type, MS, 2);
    merge.round++;
    merge_close_ended(&merge, merge.round);
    ck_assert_uint_eq(actions_oldest_unfolded(&merge.actions), actions_find(&merge.actions, 1, 2));
}
END_TEST

START_TEST(past_the_bound_of_actions_the_oldest_gives_way)
{
    uint32_t type = type_named("a");
    for (uint64_t i = 1; i <= ACTIONS_MOST + 5; i++)
        begin(i, 0, type, 1, i);
    ck_assert_uint_eq(merge.actions.actions_used, ACTIONS_MOST);
    ck_assert_uint_eq(merge.open->sums.unfinished, 5);
    ck_assert_uint_eq(actions_find(&merge.actions, 1, 5), ACTIONS_NONE);
    ck_assert_uint_ne(actions_find(&merge.actions, 1, 6), ACTIONS_NONE);
}
END_TEST

START_TEST(types_past_the_bound_are_other)
{
    char name[32];
    for (int i = 0; i < MERGE_TYPES_MOST + 10; i++) {
        snprintf(name, sizeof name, "type %d", i);
        uint32_t id = type_named(name);
        ck_assert_uint_eq(id == 0, i >= MERGE_TYPES_MOST - 1);
    }
    ck_assert_str_eq(names_text(&merge.types, 0), "(other)");
    ck_assert_uint_eq(merge.types.refused, 11);
}
END_TEST

START_TEST(names_from_outside_are_made_harmless)
{
    static const char bad[] = "a\xff\x1b[2J\xc3\xa9\xed\xa0\x80z";
    uint32_t id = names_intern(&merge.instructions, bad, sizeof bad - 1);
    ck_assert_str_eq(names_text(&merge.instructions, id), "a? [2J\xc3\xa9???z");
    char *text = malloc(NAMES_LONGEST * 2);
    memset(text, 'x', NAMES_LONGEST * 2);
    id = names_intern(&merge.instructions, text, NAMES_LONGEST * 2);
    ck_assert_uint_eq(strlen(names_text(&merge.instructions, id)), NAMES_LONGEST);
    free(text);
}
END_TEST

START_TEST(the_states_of_a_type_add_up_to_its_exact_wall_time)
{
    uint32_t type = type_named("a");
    uint32_t main = stack_of(0, "app.py:main:1"), f = stack_of(main, "app.py:f:10"),
             g = stack_of(main, "app.py:g:20");
    for (uint64_t i = 1; i <= 10; i++) {
        begin(i, 0, type, 0.1, i);
        sample(i, f, STATE_CPU, 10 * MS, i);
        sample(i, f, STATE_NATIVE, 5 * MS, i);
        sample(i, g, STATE_BLOCKED, 20 * MS, i);
        sample(i, g, STATE_GIL_WAIT, 5 * MS, i);
        struct record_end record = {.header.flags = END_HAS_RUN_DELAY,
                                    .action_serial = i,
                                    .latency_ns = 40 * MS,
                                    .run_delay_ns = 4 * MS};
        merge_end(&merge, 1, type, &record);
    }
    count(type, 97, 41 * MS);
    merge.round++;
    merge_close_ended(&merge, merge.round);
    json_t *json = report(20, false);
    const json_t *action = json_array_get(json_object_get(json, "actions"), 0);
    double wall = real_at(action, "wall");
    ck_assert_double_eq_tol(wall, 97 * 0.041, 1e-9);
    double sum = real_at(action, "cpu") + real_at(action, "native") + real_at(action, "gil_wait") +
                 real_at(action, "blocked") + real_at(action, "runnable");
    ck_assert_double_eq_tol(sum, wall, 1e-9);
    ck_assert_double_eq_tol(real_at(action, "runnable"), wall * 0.1, 1e-9);
    ck_assert_double_eq_tol(real_at(action, "cpu"), wall * (15 - 4.0) / 40 * 10 / 15, 1e-9);
    const json_t *hot = json_object_get(action, "hot");
    ck_assert_uint_eq(json_array_size(hot), 2);
    const json_t *first = json_array_get(hot, 0);
    ck_assert_str_eq(json_string_value(json_object_get(first, "instruction")), "app.py:g:20");
    ck_assert_str_eq(json_string_value(json_object_get(first, "state")), "blocked");
    ck_assert_double_eq_tol(real_at(first, "share"), 25.0 / 40, 1e-9);
    json_decref(json);
}
END_TEST

START_TEST(recursion_counts_once_in_inclusive_time)
{
    uint32_t type = type_named("a"), stack = 0;
    for (int depth = 0; depth < 50; depth++)
        stack = stack_of(stack, "r.py:r:5");
    begin(1, 0, type, 1, 0);
    sample(1, stack, STATE_CPU, 10 * MS, 1);
    end(1, type, 10 * MS, 10);
    count(type, 1, 10 * MS);
    merge.round++;
    merge_close_ended(&merge, merge.round);
    json_t *json = report(20, true);
    const json_t *action = json_array_get(json_object_get(json, "actions"), 0);
    const json_t *hot = json_object_get(action, "hot");
    ck_assert_uint_eq(json_array_size(hot), 1);
    ck_assert_double_eq_tol(real_at(json_array_get(hot, 0), "time"), 0.010, 1e-9);
    ck_assert_uint_eq(json_array_size(json_object_get(json_object_get(action, "tree"), "nodes")), 50);
    ck_assert_uint_eq(json_array_size(json_object_get(json, "instructions")), 1);
    json_decref(json);
}
END_TEST

START_TEST(a_type_without_samples_splits_by_its_cpu_clock_or_not_at_all)
{
    uint32_t timed = type_named("timed"), unknown = type_named("unknown");
    begin(1, 0, timed, 1, 0);
    struct record_end record = {.action_serial = 1, .latency_ns = 10 * MS, .cpu_ns = 4 * MS};
    merge_end(&merge, 1, timed, &record);
    count(timed, 2, 10 * MS);
    count(unknown, 1, 1 * MS);
    merge.round++;
    merge_close_ended(&merge, merge.round);
    json_t *json = report(20, false);
    const json_t *actions = json_object_get(json, "actions");
    const json_t *first = json_array_get(actions, 0), *second = json_array_get(actions, 1);
    ck_assert_double_eq_tol(real_at(first, "cpu"), 0.008, 1e-9);
    ck_assert_double_eq_tol(real_at(first, "blocked"), 0.012, 1e-9);
    ck_assert(json_is_null(json_object_get(first, "runnable")));
    ck_assert(json_is_null(json_object_get(second, "cpu")));
    ck_assert(json_is_null(json_object_get(second, "blocked")));
    json_decref(json);
}
END_TEST

START_TEST(slow_actions_are_told_from_typical_ones)
{
    uint32_t type = type_named("a"), usual = stack_of(0, "u.py:usual:1"), tax = stack_of(0, "t.py:rates:17");
    count(type, 900, 10 * MS);
    count(type, 100, 100 * MS);
    for (uint64_t i = 1; i <= 40; i++) {
        bool slow = i % 10 == 0;
        begin(i, 0, type, 1, i);
        sample(i, usual, STATE_CPU, 10 * MS, i);
        if (slow)
            sample(i, tax, STATE_BLOCKED, 90 * MS, i);
        end(i, type, slow ? 103 * MS : 10 * MS, i);
    }
    merge.round++;
    merge_close_ended(&merge, merge.round);
    json_t *json = report(20, false);
    const json_t *reasons =
        json_object_get(json_array_get(json_object_get(json, "actions"), 0), "slow_because");
    ck_assert_uint_eq(json_array_size(reasons), 1);
    const json_t *reason = json_array_get(reasons, 0);
    ck_assert_str_eq(json_string_value(json_object_get(reason, "instruction")), "t.py:rates:17");
    ck_assert_str_eq(json_string_value(json_object_get(reason, "state")), "blocked");
    ck_assert_double_eq_tol(real_at(reason, "share_slow"), 0.9, 1e-6);
    ck_assert_double_eq_tol(real_at(reason, "share_typical"), 0, 1e-6);
    json_decref(json);
}
END_TEST

/* A damaged counter of a worker may say that there were 2^63 actions, and figures are multiplied by it. */
START_TEST(a_figure_that_is_no_number_leaves_its_row_out_and_the_report_whole)
{
    uint32_t type = type_named("a"), stack = stack_of(0, "f.py:f:1");
    count(type, REPORT_CLASSED_FROM, 10 * MS);
    struct profile *profile = &merge.open->profile;
    struct type_totals *totals = profile_type(profile, type);
    totals->ended = REPORT_CLASSED_FROM;
    totals->weight = REPORT_CLASSED_FROM;
    totals->slow = totals->typical = 1;
    struct cell *cell = profile_cell(profile, type, stack);
    cell->samples = 1;
    cell->wall[STATE_CPU] = 10.0 * MS;
    cell->slow[STATE_CPU] = INFINITY;
    cell->typical = 1;
    json_t *json = report(20, false);
    const json_t *action = json_array_get(json_object_get(json, "actions"), 0);
    ck_assert_uint_eq(json_array_size(json_object_get(action, "hot")), 1);
    const json_t *row;
    size_t i;
    json_array_foreach(json_object_get(action, "slow_because"), i, row)
        ck_assert(json_is_number(json_object_get(row, "share_slow")));
    json_decref(json);
}
END_TEST

static json_t *message;
static void keep_message(const struct merge *from, uint32_t root, void *context)
{
    (void)context;
    const struct origin origin = {.source = "unit", .pid = 42, .real_offset_ns = 1000000000};
    char *line = classic_action(from, root, &origin);
    ck_assert_ptr_nonnull(line);
    ck_assert_ptr_null(strchr(line, '\n'));
    message = json_loads(line, 0, NULL);
    free(line);
}

START_TEST(a_classic_message_is_in_order_of_time_and_split_by_nested_actions)
{
    uint32_t root = type_named("root"), nested = type_named("nested");
    uint32_t main = stack_of(0, "app.py:main:1"), f = stack_of(main, "app.py:f:10");
    merge.on_root = keep_message;
    begin(1, 0, root, 0.5, 100);
    sample(1, f, STATE_CPU, 10 * MS, 110);
    begin(2, 1, nested, 0.5, 120);
    sample(2, f, STATE_CPU, 10 * MS, 130);
    sample(2, f, STATE_CPU, 10 * MS, 140);
    end(2, nested, 20 * MS, 150);
    sample(1, f, STATE_CPU, 10 * MS, 160);
    end(1, root, 80 * MS, 170);
    merge.round++;
    merge_close_ended(&merge, merge.round);
    ck_assert_ptr_nonnull(message);
    ck_assert_double_eq_tol(real_at(message, "time"), 0.080, 1e-9);
    ck_assert_double_eq_tol(real_at(message, "weight"), 2, 1e-6);
    ck_assert_str_eq(json_string_value(json_object_get(message, "action_type")), "root");
    ck_assert_str_eq(json_string_value(json_object_get(message, "action_status")), "succeeded");
    const json_t *top = json_object_get(message, "children");
    ck_assert_uint_eq(json_array_size(top), 1);
    const json_t *frame = json_array_get(top, 0);
    ck_assert_str_eq(json_string_value(json_object_get(frame, "instruction")), "app.py:main:1");
    ck_assert_double_eq_tol(real_at(frame, "time"), 0.080, 1e-9); /* scaled to the measured duration */
    const json_t *parts = json_object_get(frame, "children");
    ck_assert_uint_eq(json_array_size(parts), 3); /* before, within, after */
    const double expected[] = {0.020, 0.040, 0.020};
    for (size_t i = 0; i < 3; i++)
        ck_assert_double_eq_tol(real_at(json_array_get(parts, i), "time"), expected[i], 1e-9);
    const json_t *told = json_object_get(json_array_get(parts, 1), "message");
    ck_assert_str_eq(json_string_value(json_object_get(told, "action_type")), "nested");
    ck_assert_str_eq(json_string_value(json_object_get(told, "action_status")), "started");
    told = json_object_get(json_array_get(parts, 2), "message");
    ck_assert_str_eq(json_string_value(json_object_get(told, "action_status")), "succeeded");
    json_decref(message);
    message = NULL;
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("merge");
    TCase *cases = tcase_create("promises");
    tcase_add_checked_fixture(cases, set_up, tear_down);
    tcase_add_test(cases, a_sample_counts_with_the_weight_of_its_action);
    tcase_add_test(cases, from_its_moment_on_an_action_stands_for_as_many_as_are_sampled_then);
    tcase_add_test(cases, of_an_action_admitted_late_only_what_comes_then_counts);
    tcase_add_test(cases, a_candidate_that_was_never_admitted_leaves_nothing);
    tcase_add_test(cases, an_ended_action_waits_for_samples_that_were_on_their_way);
    tcase_add_test(cases, a_nested_actions_samples_count_for_all_that_encloses_it);
    tcase_add_test(cases, alike_actions_of_one_root_are_one_draw_however_many);
    tcase_add_test(cases, ends_may_come_in_any_order_and_twice);
    tcase_add_test(cases, an_action_cannot_begin_twice);
    tcase_add_test(cases, what_a_dead_worker_left_open_is_counted_as_unfinished);
    tcase_add_test(cases, past_the_bound_of_samples_the_oldest_action_is_folded_and_no_time_is_lost);
    tcase_add_test(cases, the_oldest_that_holds_samples_is_known_when_an_older_one_has_gone);
    tcase_add_test(cases, past_the_bound_of_actions_the_oldest_gives_way);
    tcase_add_test(cases, types_past_the_bound_are_other);
    tcase_add_test(cases, names_from_outside_are_made_harmless);
    tcase_add_test(cases, the_states_of_a_type_add_up_to_its_exact_wall_time);
    tcase_add_test(cases, recursion_counts_once_in_inclusive_time);
    tcase_add_test(cases, a_type_without_samples_splits_by_its_cpu_clock_or_not_at_all);
    tcase_add_test(cases, slow_actions_are_told_from_typical_ones);
    tcase_add_test(cases, a_figure_that_is_no_number_leaves_its_row_out_and_the_report_whole);
    tcase_add_test(cases, a_classic_message_is_in_order_of_time_and_split_by_nested_actions);
    suite_add_tcase(suite, cases);
    return suite_run(suite, CK_NOFORK);
}
