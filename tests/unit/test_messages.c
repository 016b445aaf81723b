/* What applications log inside profiled actions: kept with the open action and through the checkpoint, and
 * put into the call graph at its place in time. */
#include <check.h>
#include <string.h>
#include <unistd.h>

#include "aggregator/checkpoint.h"
#include "aggregator/destination/destination.h"
#include "aggregator/encode/classic.h"
#include "aggregator/encode/eliot.h"
#include "aggregator/guard.h"
#include "aggregator/log.h"
#include "aggregator/pool.h"
#include "tests/unit/suite.h"
#include "tests/unit/synthetic.h"

#define MS UINT64_C(1000000)

static struct synthetic s;
static struct pool *pool;
static struct config config;
static uint32_t trunk, leaf;
static json_t *told; /* the last action's message */

/* No time is less than none. */
static void check_values(const json_t *json)
{
    size_t i, k;
    json_t *stack, *value;
    json_array_foreach(json_object_get(json, "values"), i, stack) json_array_foreach(stack, k, value)
        ck_assert_int_ge(json_integer_value(value), 0);
}

/* The same as a task of Eliot: whole, its levels without a gap. */
static void check_task(const struct merge *merge, uint32_t root, const struct origin *origin)
{
    char *lines = eliot_action(merge, root, origin), *rest = lines;
    int level = 0;
    const char *status = NULL;
    ck_assert_ptr_nonnull(lines);
    for (char *line; (line = strsep(&rest, "\n")) != NULL;) {
        json_t *json = json_loads(line, 0, NULL), *place = json_object_get(json, "task_level");
        ck_assert_ptr_nonnull(json);
        ck_assert_int_eq((int)json_integer_value(json_array_get(place, 0)), ++level);
        const char *now = json_string_value(json_object_get(json, "action_status"));
        status = now == NULL ? "none" : strcmp(now, "started") == 0 ? "started" : "succeeded";
        ck_assert_int_eq(strcmp(status, "started") == 0, level == 1);
        check_values(json);
        json_decref(json);
    }
    ck_assert_str_eq(status, "succeeded");
    free(lines);
}

static void keep(const struct merge *merge, uint32_t root, void *context)
{
    (void)context;
    const struct origin origin = {.source = "unit", .segment = {0xab}, .pid = 42};
    char *line = classic_action(merge, root, &origin);
    check_task(merge, root, &origin);
    ck_assert_ptr_nonnull(line);
    ck_assert_ptr_null(strchr(line, '\n'));
    json_decref(told);
    told = json_loads(line, 0, NULL);
    ck_assert_ptr_nonnull(told);
    free(line);
}

static void open_pool(void)
{
    ck_assert_int_eq(pool_open(&pool, s.directory, s.name, &config), 0);
    pool->merge.on_root = keep;
}

static void set_up(void)
{
    synthetic_directory(&s);
    synthetic_attach(&s);
    synthetic_type(&s, 0, "(other)");
    synthetic_type(&s, 1, "shop:charge");
    trunk = synthetic_node(&s, 0, "shop.py", "charge", 1);
    leaf = synthetic_node(&s, synthetic_node(&s, trunk, "shop.py", "ask", 2), "shop.py", "wait", 3);
    open_pool();
}

static void tear_down(void)
{
    pool_close(pool);
    synthetic_end(&s);
    json_decref(told);
    told = NULL;
}

static void tell(uint64_t serial, const char *text, unsigned flags, uint32_t depth)
{
    ck_assert(synthetic_message(&s, serial, text, strlen(text), flags, depth));
}

static void work(uint64_t serial)
{
    ck_assert(synthetic_sample(&s, serial, leaf, STATE_CPU, 10 * MS));
}

static void settle(void)
{
    pool_round(pool);
    pool_round(pool);
}

static const json_t *child(const json_t *of, size_t i)
{
    const json_t *at = json_array_get(json_object_get(of, "children"), i);
    ck_assert_ptr_nonnull(at);
    return at;
}

static size_t children(const json_t *of)
{
    return json_array_size(json_object_get(of, "children"));
}

static const char *text_at(const json_t *of, const char *key)
{
    const char *text = json_string_value(json_object_get(of, key));
    return text != NULL ? text : "(none)";
}

static int number_at(const json_t *of, const char *key)
{
    return (int)json_integer_value(json_object_get(json_object_get(of, "message"), key));
}

START_TEST(what_ran_before_a_message_and_after_it_stay_apart_from_the_frame_that_logged_it)
{
    uint64_t serial = synthetic_begin(&s, 1, 0, 1);
    work(serial);
    tell(serial, "{\"message_type\":\"half\",\"n\":7}", 0, 2); /* logged by ask() */
    work(serial);
    work(serial);
    synthetic_finish(&s, serial, 1, 30 * MS, false);
    settle();
    ck_assert_uint_eq(children(told), 1);
    const json_t *charge = child(told, 0);
    ck_assert_uint_eq(children(charge), 2);
    const double expected[] = {0.010, 0.020};
    for (size_t i = 0; i < 2; i++) {
        ck_assert_str_eq(text_at(child(charge, i), "instruction"), "shop.py:ask:2");
        ck_assert_double_eq_tol(json_number_value(json_object_get(child(charge, i), "time")), expected[i],
                                1e-9);
    }
    ck_assert_ptr_null(json_object_get(child(charge, 0), "message"));
    ck_assert_int_eq(number_at(child(charge, 1), "n"), 7);
}
END_TEST

START_TEST(where_it_is_not_known_which_frame_logged_the_leaf_is_split)
{
    uint64_t serial = synthetic_begin(&s, 1, 0, 1);
    work(serial);
    tell(serial, "{\"n\":1}", 0, 0);
    tell(serial, "{\"n\":2}", 0, 99);
    work(serial);
    synthetic_finish(&s, serial, 1, 20 * MS, false);
    settle();
    const json_t *ask = child(child(told, 0), 0);
    ck_assert_uint_eq(children(ask), 3);
    ck_assert_int_eq(number_at(child(ask, 1), "n"), 1);
    ck_assert_double_eq(json_number_value(json_object_get(child(ask, 1), "time")), 0);
    ck_assert_int_eq(number_at(child(ask, 2), "n"), 2);
}
END_TEST

START_TEST(the_log_has_the_say_about_begins_and_ends)
{
    uint64_t root = synthetic_begin(&s, 1, 0, 1);
    tell(root, "{\"action_type\":\"shop:charge\",\"task_level\":[3,1],\"amount\":12}", MESSAGE_BEGIN, 1);
    uint64_t nested = synthetic_begin(&s, 1, root, 1);
    tell(nested, "{\"action_type\":\"shop:ask\",\"task_level\":[3,2,1]}", MESSAGE_BEGIN, 1);
    work(nested);
    tell(nested, "{\"exception\":\"shop.Refused\",\"action_status\":\"failed\"}", MESSAGE_END, 1);
    synthetic_finish(&s, nested, 1, 10 * MS, true);
    work(root);
    tell(root, "{\"exception\":\"shop.Refused\",\"action_status\":\"failed\",\"reason\":\"no\"}", MESSAGE_END,
         1);
    synthetic_finish(&s, root, 1, 20 * MS, true);
    settle();
    ck_assert_str_eq(text_at(told, "action_status"), "failed");
    ck_assert_str_eq(text_at(told, "exception"), "shop.Refused");
    const json_t *level = json_object_get(told, "task_level");
    ck_assert_uint_eq(json_array_size(level), 1);
    ck_assert_int_eq((int)json_integer_value(json_array_get(level, 0)), 3);
    ck_assert_str_eq(text_at(told, "id"), "ab000000000000000000000000000000-1");
    ck_assert_uint_eq(children(told), 4); /* begin, nested begin, nested end, end */
    ck_assert_int_eq(number_at(child(told, 0), "amount"), 12);
    ck_assert_str_eq(text_at(json_object_get(child(told, 1), "message"), "action_type"), "shop:ask");
    ck_assert_str_eq(text_at(json_object_get(child(told, 2), "message"), "exception"), "shop.Refused");
    ck_assert_str_eq(text_at(json_object_get(child(told, 3), "message"), "reason"), "no");
}
END_TEST

START_TEST(messages_of_an_action_without_a_sample_are_told_all_the_same)
{
    uint64_t serial = synthetic_begin(&s, 1, 0, 1);
    tell(serial, "{\"n\":1}", 0, 1);
    synthetic_finish(&s, serial, 1, 1 * MS, false);
    settle();
    ck_assert_uint_eq(children(told), 2);
    ck_assert_str_eq(text_at(child(told, 1), "instruction"), "(not sampled)");
    ck_assert_int_eq(number_at(child(told, 1), "n"), 1);
}
END_TEST

START_TEST(what_is_no_json_object_is_marked_and_harms_nothing)
{
    const char *const bad[] = {"", "[1]", "{\"n\":", "{\"n\":1}}", "\xff\xfe", "{\"a\":\"\xc3\x28\"}"};
    uint64_t serial = synthetic_begin(&s, 1, 0, 1);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        tell(serial, bad[i], 0, 1);
    work(serial);
    synthetic_finish(&s, serial, 1, 10 * MS, false);
    settle();
    unsigned marked = 0;
    for (size_t i = 0; i < children(told); i++)
        marked += json_is_true(json_object_get(json_object_get(child(told, i), "message"), "unreadable"));
    ck_assert_uint_eq(marked, sizeof bad / sizeof *bad);
}
END_TEST

START_TEST(messages_of_an_open_action_are_kept_over_restarts_each_once)
{
    uint64_t serial = synthetic_begin(&s, 1, 0, 1);
    char text[32];
    for (int life = 0; life < 4; life++) {
        work(serial);
        snprintf(text, sizeof text, "{\"n\":%d}", life);
        tell(serial, text, 0, 1);
        pool_round(pool);
        ck_assert_int_eq(checkpoint_write(pool), 0);
        if (life == 1) /* a later piece of the same chain */
            continue;
        pool_close(pool);
        open_pool();
        pool_round(pool);
    }
    work(serial);
    synthetic_finish(&s, serial, 1, 50 * MS, false);
    settle();
    ck_assert_uint_eq(children(told), 5);
    for (size_t i = 1; i < 5; i++)
        ck_assert_int_eq(number_at(child(told, i), "n"), (int)i - 1);
}
END_TEST

START_TEST(past_the_bound_in_bytes_messages_are_dropped_and_counted)
{
    static char text[3800];
    memset(text, ' ', sizeof text);
    memcpy(text, "{}", 2);
    uint64_t serial = synthetic_begin(&s, 1, 0, 1), put_in = 0;
    while (pool->merge.open->sums.dropped == 0) {
        for (int i = 0; i < 4; i++, put_in++)
            ck_assert(synthetic_message(&s, serial, text, sizeof text, 0, 1));
        pool_round(pool);
        ck_assert_int_eq(checkpoint_write(pool), 0);
        ck_assert_uint_le(pool->merge.actions.messages_bytes, MESSAGES_BYTES_MOST + sizeof text);
        ck_assert_uint_lt(put_in, 2 * MESSAGES_BYTES_MOST / sizeof text);
    }
    synthetic_finish(&s, serial, 1, 50 * MS, false);
    settle();
    ck_assert_uint_eq(pool->merge.actions.messages_bytes, 0);
}
END_TEST

/* A record that says `length` bytes of text in `size` bytes. */
static void put_wrong(uint64_t serial, uint32_t size, uint32_t length)
{
    uint64_t words[1024] = {0};
    struct record_message record = {
        .header = {size, RECORD_MESSAGE, 0}, .action_serial = serial, .length = length};
    memcpy(words, &record, sizeof record);
    ck_assert(lane_put(&s.segment.lanes[LANE_ACTION], words));
}

START_TEST(a_record_with_a_length_that_cannot_be_is_not_believed)
{
    const struct {
        uint32_t size, length;
    } wrong[] = {{40, 9}, {32, 1}, {40, UINT32_MAX}, {24, 0}, {4104, 1}};
    uint64_t serial = synthetic_begin(&s, 1, 0, 1);
    pool_round(pool);
    ck_assert_uint_eq(pool->quarantined, 0);
    put_wrong(serial, wrong[_i].size, wrong[_i].length);
    pool_round(pool);
    ck_assert_uint_eq(pool->quarantined, 1);
}
END_TEST

START_TEST(a_message_with_a_flag_of_a_newer_worker_is_passed_over)
{
    uint64_t serial = synthetic_begin(&s, 1, 0, 1);
    work(serial);
    tell(serial, "{\"n\":1}", MESSAGE_FLAGS + 1, 0);
    work(serial);
    synthetic_finish(&s, serial, 1, 20 * MS, false);
    settle();
    ck_assert_uint_eq(pool->quarantined, 0);
    ck_assert_uint_eq(children(child(child(told, 0), 0)), 1);
}
END_TEST

START_TEST(what_a_worker_says_of_its_times_may_be_anything)
{
    static const uint64_t times[] = {0, 1, 30 * MS, INT64_MAX, UINT64_MAX};
    const uint64_t wall_ns = times[_i % 5], latency_ns = times[_i / 5];
    uint64_t root = synthetic_begin(&s, 1, 0, 1e-9);
    ck_assert(synthetic_sample(&s, root, leaf, STATE_CPU, wall_ns));
    ck_assert(synthetic_sample(&s, root, trunk, STATE_BLOCKED, wall_ns));
    synthetic_finish(&s, root, 1, latency_ns, false);
    settle();
    ck_assert_ptr_nonnull(told);
    ck_assert_str_eq(text_at(told, "action_type"), "shop:charge");
}
END_TEST

START_TEST(messages_of_actions_that_nobody_knows_are_counted_as_late)
{
    tell(77, "{}", 0, 1);
    pool_round(pool);
    ck_assert_uint_eq(pool->merge.open->sums.late, 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("messages");
    TCase *cases = tcase_create("promises");
    log_open("/dev/null");
    guard_install();
    tcase_add_checked_fixture(cases, set_up, tear_down);
    tcase_add_test(cases, what_ran_before_a_message_and_after_it_stay_apart_from_the_frame_that_logged_it);
    tcase_add_test(cases, where_it_is_not_known_which_frame_logged_the_leaf_is_split);
    tcase_add_test(cases, the_log_has_the_say_about_begins_and_ends);
    tcase_add_test(cases, messages_of_an_action_without_a_sample_are_told_all_the_same);
    tcase_add_test(cases, what_is_no_json_object_is_marked_and_harms_nothing);
    tcase_add_test(cases, messages_of_an_open_action_are_kept_over_restarts_each_once);
    tcase_add_test(cases, past_the_bound_in_bytes_messages_are_dropped_and_counted);
    tcase_add_loop_test(cases, a_record_with_a_length_that_cannot_be_is_not_believed, 0, 5);
    tcase_add_test(cases, a_message_with_a_flag_of_a_newer_worker_is_passed_over);
    tcase_add_loop_test(cases, what_a_worker_says_of_its_times_may_be_anything, 0, 25);
    tcase_add_test(cases, messages_of_actions_that_nobody_knows_are_counted_as_late);
    suite_add_tcase(suite, cases);
    return suite_run(suite, CK_NOFORK);
}
