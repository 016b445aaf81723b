/* What comes of requests: where they differ the lowest caps win, and they last as long as somebody is there.
 */
#include <check.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "aggregator/checkpoint.h"
#include "aggregator/destination/destination.h"
#include "aggregator/guard.h"
#include "aggregator/log.h"
#include "aggregator/pool.h"
#include "tests/unit/suite.h"
#include "tests/unit/synthetic.h"

#define MS UINT64_C(1000000)

static struct synthetic s;
static struct pool *pool;
static struct config config;
static uint64_t now;

static void set_up(void)
{
    memset(&config, 0, sizeof config);
    synthetic_directory(&s);
    synthetic_attach(&s);
    now = clock_monotonic_ns();
    ck_assert_int_eq(pool_open(&pool, s.directory, s.name, &config), 0);
}

static void tear_down(void)
{
    pool_close(pool);
    synthetic_end(&s);
}

static void ask(const char *name, const char *text)
{
    char path[DIRECTORY_PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/requests/%s.json", s.pool, name);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    pool_scan(pool, true);
}

static const char wide[] =
    "{\"kind\":\"limits\",\"max_overhead\":0.05,\"time_granularity\":0.001,\"code_granularity\":\"line\","
    "\"max_actions_per_run\":0,\"max_action_types\":900,\"scope\":\"actions\"}";
static const char narrow[] =
    "{\"kind\":\"limits\",\"max_overhead\":0.03,\"time_granularity\":0.02,\"code_granularity\":\"method\","
    "\"max_actions_per_run\":7,\"max_action_types\":3,\"scope\":\"process\"}";

START_TEST(where_requests_differ_the_lowest_caps_win_in_whatever_order_they_come)
{
    ask("0", _i == 0 ? wide : narrow);
    ask("1", _i == 0 ? narrow : wide);
    ask("2", "{\"kind\":\"limits\",\"max_overhead\":0.51}");
    ask("5", "{\"kind\":\"limits\",\"max_overhead\":0.0004}");
    ask("6", "{\"kind\":\"limits\",\"max_action_types\":1001}");
    ask("3", "{\"kind\":\"nonsense\"}");
    ask("4", "[1,2");
    ck_assert_double_eq(pool->asked.max_overhead, 0.03);
    ck_assert_uint_eq(pool->asked.interval_ns, 20 * MS);
    ck_assert_uint_eq(pool->asked.granularity, GRANULARITY_METHOD);
    ck_assert_uint_eq(pool->asked.cap, 7);
    ck_assert_uint_eq(pool->merge.types.limit, 1 + 3);
    ck_assert(!pool->process_scope);
    ck_assert(pool->requests.differ);
}
END_TEST

START_TEST(the_operator_may_lower_what_is_asked_for_and_not_raise_it)
{
    ask("0", narrow);
    config.max_overhead = 0.01;
    config.max_actions_per_run = 100;
    config.max_action_types = 100;
    struct asked asked = requests_limits(&pool->requests, &config);
    ck_assert_double_eq(asked.limits.max_overhead, 0.01);
    ck_assert_uint_eq(asked.limits.cap, 7);
    ck_assert_uint_eq(asked.action_types, 3);
    ck_assert(asked.process_scope);
    config.max_action_types = 2;
    ck_assert_uint_eq(requests_limits(&pool->requests, &config).action_types, 2);
}
END_TEST

/* Four types where three may be told apart; those that have a name keep it when fewer may. */
START_TEST(types_past_the_number_that_was_asked_for_are_counted_together)
{
    static const char *const name[] = {"/a", "/b", "/c", "/d"};
    ask("0", narrow);
    for (uint32_t i = 0; i < 4; i++)
        ck_assert_uint_eq(names_intern(&pool->merge.types, name[i], 2), i < 3 ? i + 1 : 0);
    ck_assert_uint_eq(pool->merge.types.refused, 1);
    ask("1", "{\"kind\":\"limits\",\"max_action_types\":1}");
    ck_assert_uint_eq(names_intern(&pool->merge.types, "/c", 2), 3);
    ck_assert_uint_eq(names_intern(&pool->merge.types, "/d", 2), 0);
}
END_TEST

START_TEST(a_request_that_was_set_aside_by_a_life_that_was_killed_is_put_back)
{
    char path[DIRECTORY_PATH_MAX + 16], aside[DIRECTORY_PATH_MAX + 16];
    ask("0", narrow);
    pool_close(pool);
    snprintf(path, sizeof path, "%s/requests/0.json", s.pool);
    snprintf(aside, sizeof aside, "%s/requests/.0.json.left", s.pool);
    ck_assert_int_eq(rename(path, aside), 0);
    ck_assert_int_eq(pool_open(&pool, s.directory, s.name, &config), 0);
    ck_assert_uint_eq(pool->asked.cap, 7);
    ck_assert_int_ne(access(aside, F_OK), 0);
}
END_TEST

START_TEST(what_workers_asked_for_is_dropped_when_the_last_has_gone_for_long)
{
    ask("0", narrow);
    ck_assert_uint_eq(pool->asked.cap, 7);
    synthetic_close_segment(&s);
    for (int i = 0; i < 4; i++)
        pool_round(pool);
    ck_assert_int_eq(checkpoint_write(pool), 0);
    ck_assert_ptr_null(pool->workers);
    pool_let_go(pool, now, 5);
    pool_let_go(pool, now + 4 * NS_PER_SECOND, 5);
    ck_assert_uint_eq(pool->asked.cap, 7);
    pool_let_go(pool, now + 6 * NS_PER_SECOND, 5);
    ck_assert_uint_eq(pool->asked.cap, 10); /* the default */
    ck_assert_uint_eq(pool->requests.count, 0);
}
END_TEST

START_TEST(what_workers_asked_for_stays_when_one_comes_at_the_last_moment)
{
    ask("0", narrow);
    synthetic_close_segment(&s);
    for (int i = 0; i < 4; i++)
        pool_round(pool);
    ck_assert_int_eq(checkpoint_write(pool), 0);
    pool_let_go(pool, now, 5);
    segment_unmap(&s.segment);
    synthetic_attach(&s); /* it sees its request there, and does not write it again */
    pool_let_go(pool, now + 6 * NS_PER_SECOND, 5);
    ck_assert_uint_eq(pool->asked.cap, 7);
    ck_assert_uint_eq(pool->requests.count, 1);
}
END_TEST

int main(void)
{
    guard_install();
    destinations_start();
    log_open("/dev/null");
    Suite *suite = suite_create("requests");
    TCase *cases = tcase_create("promises");
    tcase_add_checked_fixture(cases, set_up, tear_down);
    tcase_add_loop_test(cases, where_requests_differ_the_lowest_caps_win_in_whatever_order_they_come, 0, 2);
    tcase_add_test(cases, types_past_the_number_that_was_asked_for_are_counted_together);
    tcase_add_test(cases, the_operator_may_lower_what_is_asked_for_and_not_raise_it);
    tcase_add_test(cases, a_request_that_was_set_aside_by_a_life_that_was_killed_is_put_back);
    tcase_add_test(cases, what_workers_asked_for_is_dropped_when_the_last_has_gone_for_long);
    tcase_add_test(cases, what_workers_asked_for_stays_when_one_comes_at_the_last_moment);
    suite_add_tcase(suite, cases);
    return suite_run(suite, CK_NOFORK);
}
