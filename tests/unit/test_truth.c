/*
 * Is the report true? A synthetic pool does actions whose lines, states and durations are known, some of
 * which are admitted by lottery and below a hard cap, and sampled at random moments; what the report makes of
 * it is held against what was done.
 */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "aggregator/destination/destination.h"
#include "aggregator/encode/lines.h"
#include "aggregator/encode/report.h"
#include "aggregator/guard.h"
#include "aggregator/log.h"
#include "aggregator/pool.h"
#include "tests/unit/suite.h"
#include "tests/unit/look.h"
#include "tests/unit/synthetic.h"

#define MS UINT64_C(1000000)

enum {
    TYPE_SHOP = 1,
    TYPE_CHARGE = 2, /* nested in each shop action */
    CYCLES = 80,
    A_CYCLE = 250, /* actions */
    CAP = 50,      /* of them profiled, at most */
    INTERVAL_MS = 2,
};

/* Lines, and what the stack of each is. */
enum place { ROOT, CART, RENDER, SEARCH, TAX, WALK, CHARGE, LINES };

static struct synthetic s;
static struct config config;
static struct pool *pool;
static uint32_t stack_of[LINES];
static double truth_ms[LINES], all_ms, waited_ms;
static double latency_ms[CYCLES * A_CYCLE];
static unsigned done, admitted_in_cycle, errors, over_the_cap;
static json_t *report;

static double uniform(void)
{
    return drand48();
}

static void define(void)
{
    synthetic_type(&s, 0, "(other)");
    synthetic_type(&s, TYPE_SHOP, "/shop/<int:id>");
    synthetic_type(&s, TYPE_CHARGE, "shop:charge");
    uint32_t root = stack_of[ROOT] = synthetic_node(&s, 0, "shop/app.py", "shop", 10);
    stack_of[CART] = synthetic_node(&s, root, "shop/db.py", "cart", 41);
    stack_of[RENDER] = synthetic_node(&s, root, "shop/page.py", "render", 7);
    stack_of[SEARCH] = synthetic_node(&s, root, "shop/find.py", "search", 3);
    stack_of[TAX] = synthetic_node(&s, root, "shop/tax.py", "rates", 17);
    uint32_t walk = synthetic_node(&s, root, "shop/tree.py", "walk", 5);
    walk = synthetic_node(&s, walk, "shop/tree.py", "walk", 5);
    stack_of[WALK] = synthetic_node(&s, walk, "shop/tree.py", "walk", 5); /* recursion, three deep */
    stack_of[CHARGE] = synthetic_node(&s, root, "shop/pay.py", "charge", 9);
}

/* One stretch of an action on one line; it is sampled where a tick falls into it. */
static void stretch(uint64_t serial, double *at_ms, double phase_ms, enum place line, enum sample_state state,
                    double ms)
{
    double end = *at_ms + ms;
    truth_ms[line] += ms;
    if (serial != 0)
        for (double tick = phase_ms + INTERVAL_MS * ceil((*at_ms - phase_ms) / INTERVAL_MS); tick < end;
             tick += INTERVAL_MS)
            ck_assert(synthetic_sample(&s, serial, stack_of[line], state, INTERVAL_MS * MS));
    *at_ms = end;
}

static void finish(uint64_t serial, enum denial denial, uint32_t type, double ms, double waiting_ms,
                   bool error)
{
    uint64_t ns = (uint64_t)(ms * 1e6);
    if (serial == 0) {
        counters_add(s.segment.counters, type, ns, error, denial);
        return;
    }
    struct record_end end = {
        .header = {sizeof end, RECORD_END, END_HAS_RUN_DELAY | (error ? END_ERROR : 0)},
        .time_ns = clock_monotonic_ns(),
        .action_serial = serial,
        .latency_ns = ns,
        .run_delay_ns = (uint64_t)(waiting_ms * 1e6),
        .type = type,
    };
    ck_assert(lane_put(&s.segment.lanes[LANE_ACTION], &end));
    counters_add(s.segment.counters, type, ns, error, DENIALS);
}

/*
 * Nine in ten are of a stratum that is admitted with 0.3 and load a cart; one in ten is of another, admitted
 * with 0.9, and searches instead. One in sixteen waits long for tax rates: those are the slow ones.
 */
static void act(void)
{
    bool searches = uniform() < 0.1, slow = uniform() < 1.0 / 16, error = uniform() < 0.02;
    double p = searches ? 0.9 : 0.3, at = 0, phase = uniform() * INTERVAL_MS;
    bool wins = uniform() < p, drawn = wins && admitted_in_cycle < CAP;
    enum denial denial = drawn ? DENIALS : wins ? DENIED_CAP : DENIED_LOTTERY;
    uint64_t serial = drawn ? synthetic_begin(&s, TYPE_SHOP, 0, p) : 0;
    admitted_in_cycle += drawn;
    stretch(serial, &at, phase, ROOT, STATE_NATIVE, 0.5);
    if (searches)
        stretch(serial, &at, phase, SEARCH, STATE_CPU, 12 + 4 * uniform());
    else
        stretch(serial, &at, phase, CART, STATE_BLOCKED, 6 + 4 * uniform());
    double computing = 3 + uniform();
    stretch(serial, &at, phase, RENDER, STATE_CPU, computing);
    stretch(serial, &at, phase, WALK, STATE_CPU, 2);
    uint64_t nested = drawn ? synthetic_begin(&s, TYPE_CHARGE, serial, p) : 0;
    stretch(nested, &at, phase, CHARGE, STATE_GIL_WAIT, 3);
    finish(nested, denial, TYPE_CHARGE, 3, 0, false);
    if (slow)
        stretch(serial, &at, phase, TAX, STATE_BLOCKED, 60 + 20 * uniform());
    finish(serial, denial, TYPE_SHOP, at, 1, error);
    all_ms += at;
    waited_ms += 1;
    errors += error;
    over_the_cap += denial == DENIED_CAP;
    latency_ms[done++] = at;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void set_up(void)
{
    srand48(20240711);
    memset(truth_ms, 0, sizeof truth_ms);
    all_ms = waited_ms = 0;
    done = errors = over_the_cap = 0;
    synthetic_directory(&s);
    synthetic_attach(&s);
    define();
    ck_assert_int_eq(pool_open(&pool, s.directory, s.name, &config), 0);
    uint64_t now = clock_monotonic_ns();
    for (int cycle = 0; cycle < CYCLES; cycle++) {
        admitted_in_cycle = 0;
        for (int i = 0; i < A_CYCLE; i++) {
            act();
            if (i % 50 == 49) {
                pool_round(pool);
                for (struct worker *w = pool->workers; w != NULL; w = w->next)
                    worker_store_heads(w);
            }
        }
        pool_round(pool);
        now += NS_PER_SECOND;
        pool_account(pool, 1000000, now);
        pool_cycle(pool, now);
    }
    pool_round(pool);
    pool_publish(pool, now + 1);
    qsort(latency_ms, done, sizeof *latency_ms, by_size);
    struct report_facts facts = {.source = "unit",
                                 .max_overhead = 0.02,
                                 .cap = CAP,
                                 .cycle_ms = 1000,
                                 .granularity = GRANULARITY_LINE};
    struct report_options options = {.limit = 20};
    report = report_build(&pool->merge, pool->windows.published, &facts, &options);
    ck_assert_ptr_nonnull(report);
}

static void tear_down(void)
{
    json_decref(report);
    pool_close(pool);
    synthetic_end(&s);
}

static const json_t *action(const char *type)
{
    return look_action(report, type);
}

static void is_near(const char *what, double got, double expected, double tolerance)
{
    ck_assert_msg(fabs(got - expected) <= tolerance * expected, "%s: %.3f, in truth %.3f", what, got,
                  expected);
}

START_TEST(what_is_counted_is_exact)
{
    const json_t *shop = action("/shop/<int:id>");
    ck_assert_double_eq(look_number(shop, "count"), done);
    ck_assert_double_eq(look_number(shop, "errors"), errors);
    ck_assert_double_eq_tol(look_number(shop, "wall"), all_ms / 1e3, 1e-6 * done);
    ck_assert_double_le(look_number(shop, "profiled"), CYCLES * CAP);
    ck_assert_double_ge(look_number(shop, "profiled"), 0.8 * CYCLES * CAP);
    ck_assert_double_eq_tol(look_number(action("shop:charge"), "wall"), done * 0.003, 1e-6 * done);
    ck_assert_double_eq(look_number(report, "dropped"), 0);
    ck_assert_double_eq(look_number(report, "late"), 0);
}
END_TEST

START_TEST(time_by_line_is_the_truth_within_sampling_error)
{
    static const struct {
        enum place line;
        const char *instruction;
        double tolerance;
    } rows[] = {
        {CART, "shop/db.py:cart:41", 0.05},     {RENDER, "shop/page.py:render:7", 0.05},
        {SEARCH, "shop/find.py:search:3", 0.1}, {TAX, "shop/tax.py:rates:17", 0.2},
        {WALK, "shop/tree.py:walk:5", 0.06},    {CHARGE, "shop/pay.py:charge:9", 0.05},
        {ROOT, "shop/app.py:shop:10", 0.15},
    };
    const json_t *shop = action("/shop/<int:id>");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        is_near(rows[i].instruction, look_number(look_hot(shop, rows[i].instruction), "self_time"),
                truth_ms[rows[i].line] / 1e3, rows[i].tolerance);
}
END_TEST

/* Four of them, once in 16,000 figures; and they are not so large that anything would do. */
static void is_within_its_error(const json_t *of, const char *key, double truth, double largest)
{
    double error = look_number(json_object_get(of, "se"), key);
    ck_assert_msg(fabs(look_number(of, key) - truth) <= 4 * error, "%s: %.3f +- %.3f, in truth %.3f", key,
                  look_number(of, key), error, truth);
    ck_assert_msg(error > 0 && error <= largest * truth, "%s: +- %.3f of %.3f", key, error, truth);
}

START_TEST(what_is_estimated_is_told_with_its_standard_error)
{
    const json_t *shop = action("/shop/<int:id>"), *cart = look_hot(shop, "shop/db.py:cart:41");
    double wall = look_number(shop, "wall"), cart_s = truth_ms[CART] / 1e3;
    is_within_its_error(cart, "self_time", cart_s, 0.03);
    is_within_its_error(cart, "share", cart_s / wall, 0.03);
    is_within_its_error(look_hot(shop, "shop/page.py:render:7"), "self_time", truth_ms[RENDER] / 1e3, 0.03);
    is_within_its_error(look_hot(shop, "shop/tax.py:rates:17"), "self_time", truth_ms[TAX] / 1e3, 0.1);
    is_within_its_error(look_hot(shop, "shop/tree.py:walk:5"), "time", truth_ms[WALK] / 1e3, 0.05);
    is_within_its_error(shop, "blocked", (truth_ms[CART] + truth_ms[TAX]) / 1e3, 0.1);
    is_within_its_error(shop, "gil_wait", truth_ms[CHARGE] / 1e3, 0.03);
    is_within_its_error(shop, "runnable", waited_ms / 1e3, 0.03);
    ck_assert(json_is_false(json_object_get(cart, "noise")));
    ck_assert_ptr_null(json_object_get(shop, "noise"));
    ck_assert_ptr_null(json_object_get(json_object_get(shop, "se"), "wall"));
    const json_t *first = json_array_get(json_object_get(shop, "slow_because"), 0);
    ck_assert(json_is_false(json_object_get(first, "noise")));
}
END_TEST

START_TEST(all_that_was_seen_was_profiled_or_denied_for_a_reason)
{
    const json_t *shop = action("/shop/<int:id>"), *denied = json_object_get(shop, "denied");
    ck_assert_double_gt(look_number(denied, "lottery"), 0);
    ck_assert_double_eq(look_number(denied, "cap"), over_the_cap);
    ck_assert_double_eq(look_number(shop, "count"), look_number(shop, "profiled") +
                                                        look_number(denied, "lottery") +
                                                        look_number(denied, "cap"));
}
END_TEST

START_TEST(states_add_up_to_the_wall_time_and_are_the_truth)
{
    const json_t *shop = action("/shop/<int:id>");
    double waiting = waited_ms / 1e3, wall = look_number(shop, "wall");
    double cpu = (truth_ms[SEARCH] + truth_ms[RENDER] + truth_ms[WALK]) / 1e3, native = truth_ms[ROOT] / 1e3;
    /* What waited for a core was taken out of computing with the GIL and without it in proportion. */
    is_near("runnable", look_number(shop, "runnable"), waiting, 0.05);
    is_near("cpu", look_number(shop, "cpu"), cpu - waiting * cpu / (cpu + native), 0.07);
    is_near("gil_wait", look_number(shop, "gil_wait"), truth_ms[CHARGE] / 1e3, 0.05);
    is_near("blocked", look_number(shop, "blocked"), (truth_ms[CART] + truth_ms[TAX]) / 1e3, 0.1);
    ck_assert_double_eq_tol(look_number(shop, "cpu") + look_number(shop, "native") +
                                look_number(shop, "gil_wait") + look_number(shop, "blocked") +
                                look_number(shop, "runnable"),
                            wall, 1e-6 * wall);
    ck_assert_str_eq(json_string_value(json_object_get(look_hot(shop, "shop/db.py:cart:41"), "state")),
                     "blocked");
    ck_assert_str_eq(json_string_value(json_object_get(look_hot(shop, "shop/page.py:render:7"), "state")),
                     "cpu");
    ck_assert_str_eq(json_string_value(json_object_get(look_hot(shop, "shop/pay.py:charge:9"), "state")),
                     "gil_wait");
    ck_assert_str_eq(json_string_value(json_object_get(look_hot(shop, "shop/app.py:shop:10"), "state")),
                     "native");
}
END_TEST

START_TEST(rows_are_ordered_and_no_share_exceeds_the_whole)
{
    const json_t *shop = action("/shop/<int:id>"), *list = json_object_get(shop, "hot");
    double before = INFINITY, shares = 0, wall = look_number(shop, "wall");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *row = json_array_get(list, i);
        double self = look_number(row, "self_time"), time = look_number(row, "time");
        ck_assert_double_le(self, before);
        ck_assert_double_le(self, time * (1 + 1e-9));
        ck_assert_double_le(time, wall * (1 + 1e-9));
        ck_assert_double_eq_tol(look_number(row, "share"), self / wall, 1e-9);
        shares += look_number(row, "share");
        before = self;
    }
    ck_assert_double_le(shares, 1 + 1e-9);
    /* All time is below the outermost line; a recursion counts once; a nested action counts for what encloses
     * it. */
    is_near("root", look_number(look_hot(shop, "shop/app.py:shop:10"), "time"), wall, 1e-6);
    const json_t *walk = look_hot(shop, "shop/tree.py:walk:5"), *charge = action("shop:charge");
    is_near("recursion", look_number(walk, "time"), look_number(walk, "self_time"), 1e-9);
    is_near("nested", look_number(look_hot(charge, "shop/pay.py:charge:9"), "self_time"),
            look_number(charge, "wall"), 1e-6);
}
END_TEST

START_TEST(quantiles_are_right_within_a_bucket)
{
    const json_t *latency = json_object_get(action("/shop/<int:id>"), "latency");
    is_near("p50", look_number(latency, "p50"), latency_ms[done / 2] / 1e3, 1.0 / 16);
    is_near("p90", look_number(latency, "p90"), latency_ms[done * 9 / 10] / 1e3, 1.0 / 16);
    is_near("p99", look_number(latency, "p99"), latency_ms[done * 99 / 100] / 1e3, 1.0 / 16);
    is_near("max", look_number(latency, "max"), latency_ms[done - 1] / 1e3, 1e-6);
    is_near("mean", look_number(latency, "mean"), all_ms / done / 1e3, 1e-6);
}
END_TEST

START_TEST(why_slow_ones_are_slow_is_found)
{
    const json_t *reasons = json_object_get(action("/shop/<int:id>"), "slow_because");
    const json_t *first = json_array_get(reasons, 0);
    ck_assert_str_eq(json_string_value(json_object_get(first, "instruction")), "shop/tax.py:rates:17");
    ck_assert_str_eq(json_string_value(json_object_get(first, "state")), "blocked");
    ck_assert_double_ge(look_number(first, "share_slow"), 0.6);
    ck_assert_double_le(look_number(first, "share_slow"), 1);
    ck_assert_double_le(look_number(first, "share_typical"), 0.02);
    ck_assert_uint_eq(json_array_size(json_object_get(action("shop:charge"), "slow_because")), 0);
}
END_TEST

START_TEST(a_computing_line_that_waits_for_a_core_is_named_by_the_larger)
{
    static const struct {
        double self[LINE_STATES];
        const char *state;
    } table[] = {
        {{3, 0, 1, 1, 2}, "cpu"},      {{2, 0, 1, 1, 3}, "runnable"}, {{2, 0, 0, 3, 2}, "cpu"},
        {{1, 0, 0, 4, 2}, "blocked"},  {{0, 2, 0, 1, 1}, "native"},   {{0, 1, 0, 1, 2}, "runnable"},
        {{1, 0, 4, 0, 2}, "gil_wait"}, {{0, 0, 0, 1, 2}, "runnable"}, {{0, 0, 0, 1, 0}, "blocked"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct line line = {0};
        memcpy(line.self, table[i].self, sizeof line.self);
        ck_assert_str_eq(lines_self_state(&line), table[i].state);
    }
}
END_TEST

/* "key:type key:type …" — s text, i integer, r real, o object, a array. All must be there and of that type.
 */
static void has_keys(const json_t *json, const char *keys)
{
    char text[512];
    snprintf(text, sizeof text, "%s", keys);
    for (char *rest = text, *key; (key = strtok_r(rest, " ", &rest)) != NULL;) {
        char *type = strchr(key, ':');
        *type++ = '\0';
        const json_t *value = json_object_get(json, key);
        bool right = *type == 's'   ? json_is_string(value)
                     : *type == 'i' ? json_is_integer(value)
                     : *type == 'r' ? json_is_real(value)
                     : *type == 'o' ? json_is_object(value)
                                    : json_is_array(value);
        ck_assert_msg(right, "%s is missing or of another type", key);
    }
}

START_TEST(the_report_has_the_promised_keys)
{
    has_keys(report,
             "source:s window:o overhead:o actions_per_cycle:o workers:i samples:i dropped:i actions:a");
    has_keys(json_object_get(report, "window"), "start:s end:s seconds:r");
    has_keys(json_object_get(report, "overhead"),
             "ratio:r budget:r sampler_cpu:r hook_cpu:r aggregator_cpu:r worker_cpu:r");
    has_keys(json_object_get(report, "actions_per_cycle"),
             "cap:i cycle_seconds:r admitted:i shed:i max_in_a_cycle:i");
    const json_t *shop = action("/shop/<int:id>");
    has_keys(
        shop,
        "action_type:s count:i errors:i profiled:i denied:o se:o latency:o wall:r cpu:r native:r gil_wait:r "
        "blocked:r runnable:r hot:a slow_because:a");
    has_keys(json_object_get(shop, "latency"), "mean:r p50:r p90:r p99:r max:r");
    has_keys(json_array_get(json_object_get(shop, "hot"), 0),
             "instruction:s self_time:r time:r share:r state:s se:o");
    has_keys(json_array_get(json_object_get(shop, "slow_because"), 0),
             "instruction:s share_slow:r share_typical:r state:s se:o");
}
END_TEST

int main(void)
{
    guard_install();
    destinations_start();
    log_open("/dev/null");
    Suite *suite = suite_create("truth");
    TCase *cases = tcase_create("promises");
    tcase_set_timeout(cases, 60);
    tcase_add_checked_fixture(cases, set_up, tear_down);
    tcase_add_test(cases, what_is_counted_is_exact);
    tcase_add_test(cases, time_by_line_is_the_truth_within_sampling_error);
    tcase_add_test(cases, what_is_estimated_is_told_with_its_standard_error);
    tcase_add_test(cases, all_that_was_seen_was_profiled_or_denied_for_a_reason);
    tcase_add_test(cases, states_add_up_to_the_wall_time_and_are_the_truth);
    tcase_add_test(cases, rows_are_ordered_and_no_share_exceeds_the_whole);
    tcase_add_test(cases, quantiles_are_right_within_a_bucket);
    tcase_add_test(cases, why_slow_ones_are_slow_is_found);
    tcase_add_test(cases, a_computing_line_that_waits_for_a_core_is_named_by_the_larger);
    tcase_add_test(cases, the_report_has_the_promised_keys);
    suite_add_tcase(suite, cases);
    return suite_run(suite, CK_FORK);
}
