/* Merged profiles are handed over when a checkpoint tells of their window, and told again, the same, if
 * nobody can know whether they were. */
#include <check.h>
#include <jansson.h>
#include <stdio.h>
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
static char out[DIRECTORY_PATH_MAX];

static void open_pool(void)
{
    ck_assert_int_eq(pool_open(&pool, s.directory, s.name, &config), 0);
}

static void killed(void)
{
    pool_close(pool);
    open_pool();
}

static void set_up(void)
{
    char path[DIRECTORY_PATH_MAX];
    synthetic_directory(&s);
    synthetic_attach(&s);
    synthetic_type(&s, 0, "(other)");
    synthetic_type(&s, 1, "/a");
    snprintf(out, sizeof out, "%s/out", s.directory);
    snprintf(path, sizeof path, "%s/requests/0123456789abcdef.json", s.pool);
    FILE *file = fopen(path, "w");
    fprintf(file, "{\"kind\":\"file\",\"path\":\"%s\",\"profiles\":true}", out);
    fclose(file);
    ck_assert_int_eq(destinations_start(), 0);
    now = clock_monotonic_ns();
    open_pool();
}

static void tear_down(void)
{
    pool_close(pool);
    destinations_stop(1000);
    synthetic_end(&s);
}

/* What was told of /a: how often, and under how many ids. */
struct told {
    unsigned lines, ids;
    uint64_t count;
};

static struct told told(void)
{
    struct told told = {0};
    char line[8192];
    json_t *known = json_object();
    ck_assert(destination_sync(10000));
    FILE *file = fopen(out, "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        json_t *message = json_loads(line, 0, NULL);
        const char *kind = json_string_value(json_object_get(message, "kind"));
        const char *type = json_string_value(json_object_get(message, "action_type"));
        ck_assert_ptr_nonnull(kind);
        if (strcmp(kind, "profile") == 0 && strcmp(type, "/a") == 0) {
            const char *id = json_string_value(json_object_get(message, "id"));
            json_t *before = json_object_get(known, id);
            if (before != NULL)
                ck_assert_msg(json_equal(before, message), "told again, and not the same");
            else
                told.count += (uint64_t)json_integer_value(json_object_get(message, "count"));
            json_object_set(known, id, message);
            told.lines++;
        }
        json_decref(message);
    }
    told.ids = (unsigned)json_object_size(known);
    json_decref(known);
    if (file != NULL)
        fclose(file);
    return told;
}

static void count(int n)
{
    for (int i = 0; i < n; i++)
        synthetic_count(&s, 1, 1 * MS);
    pool_round(pool);
}

static void close_window(void)
{
    now += 2 * POOL_WINDOW_NS;
    pool_account(pool, 0, now);
    pool_cycle(pool, now);
}

START_TEST(a_window_is_told_of_when_it_is_committed_and_once)
{
    count(3);
    close_window();
    ck_assert_uint_eq(told().lines, 0);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(checkpoint_write(pool), 0);
    killed();
    ck_assert_int_eq(checkpoint_write(pool), 0);
    ck_assert_uint_eq(told().lines, 1);
    count(2);
    close_window();
    ck_assert_int_eq(checkpoint_write(pool), 0);
    ck_assert_uint_eq(told().lines, 2);
    ck_assert_uint_eq(told().count, 5);
}
END_TEST

START_TEST(a_window_that_closed_without_a_commit_is_told_of_with_all_that_came_after)
{
    count(3);
    ck_assert_int_eq(checkpoint_write(pool), 0);
    close_window();
    killed();
    count(4);
    close_window();
    ck_assert_int_eq(checkpoint_write(pool), 0);
    ck_assert_uint_eq(told().lines, 1);
    ck_assert_uint_eq(told().count, 7);
}
END_TEST

START_TEST(what_may_not_have_been_handed_over_is_told_again_and_is_the_same)
{
    count(3);
    close_window();
    ck_assert_int_eq(checkpoint_write(pool),
                     0); /* commits the window, then tells: the next one knows that it did */
    killed();
    count(1);
    ck_assert_int_eq(checkpoint_write(pool), 0);
    struct told now_told = told();
    ck_assert_uint_eq(now_told.lines, 2);
    ck_assert_uint_eq(now_told.ids, 1);
    ck_assert_uint_eq(now_told.count, 3);
    ck_assert_int_eq(checkpoint_write(pool), 0);
    killed();
    ck_assert_int_eq(checkpoint_write(pool), 0);
    ck_assert_uint_eq(told().lines, 2);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("windows told");
    TCase *cases = tcase_create("promises");
    log_open("/dev/null");
    guard_install();
    tcase_add_checked_fixture(cases, set_up, tear_down);
    tcase_add_test(cases, a_window_is_told_of_when_it_is_committed_and_once);
    tcase_add_test(cases, a_window_that_closed_without_a_commit_is_told_of_with_all_that_came_after);
    tcase_add_test(cases, what_may_not_have_been_handed_over_is_told_again_and_is_the_same);
    suite_add_tcase(suite, cases);
    return suite_run(suite, CK_NOFORK);
}
