/* The text that messages are written with: what it writes is what a reader of JSON takes it for. */
#include "aggregator/encode/json_text.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "aggregator/encode/instant.h"
#include "tests/unit/suite.h"

static char *written;

static void tear_down(void)
{
    free(written);
    written = NULL;
}

static json_t *read_back(struct json_text *json)
{
    written = json_text_end(json);
    ck_assert_ptr_nonnull(written);
    json_t *value = json_loads(written, JSON_DECODE_ANY, NULL);
    ck_assert_msg(value != NULL, "%s", written);
    return value;
}

START_TEST(a_string_is_escaped_as_the_library_does_it)
{
    struct json_text json = {0};
    char text[0x100] = "\"\\/ \x7f h\xc3\xa9llo \xe2\x82\xac \xf0\x9f\x90\x8d";
    size_t length = strlen(text);
    for (char c = 1; c < 0x20; c++)
        text[length++] = c;
    json_text_string(&json, text);
    json_t *value = read_back(&json), *string = json_string(text);
    char *expected = json_dumps(string, JSON_COMPACT | JSON_ENCODE_ANY);
    ck_assert_str_eq(json_string_value(value), text);
    ck_assert_str_eq(written, expected);
    json_decref(value);
    json_decref(string);
    free(expected);
}
END_TEST

static const struct {
    int64_t ns;
    const char *text;
} seconds[] = {
    {0, "0.0"},
    {1, "0.000000001"},
    {-1, "-0.000000001"},
    {999999999, "0.999999999"},
    {1000000000, "1.0"},
    {1250000000, "1.25"},
    {100, "0.0000001"},
    {90061000000001, "90061.000000001"},
    {INT64_MAX, "9223372036.854775807"},
    {INT64_MIN, "-9223372036.854775808"},
};

START_TEST(seconds_are_real_numbers_to_the_nanosecond)
{
    struct json_text json = {0};
    json_text_seconds(&json, seconds[_i].ns);
    json_t *value = read_back(&json);
    ck_assert(json_is_real(value));
    ck_assert_str_eq(written, seconds[_i].text);
    json_decref(value);
}
END_TEST

START_TEST(times_of_day_are_right_in_whatever_order_they_come)
{
    static const struct {
        uint64_t ns;
        const char *text;
    } times[] = {
        {0, "1970-01-01T00:00:00.000000Z"},
        {999999999, "1970-01-01T00:00:00.999999Z"},
        {UINT64_C(1709251199999999000), "2024-02-29T23:59:59.999999Z"},
        {UINT64_C(1709251200000001000), "2024-03-01T00:00:00.000001Z"},
        {UINT64_C(1709251199000000000), "2024-02-29T23:59:59.000000Z"},
        {UINT64_C(1000), "1970-01-01T00:00:00.000001Z"},
    };
    char text[INSTANT_BYTES];
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        instant_text(times[i].ns, text);
        ck_assert_str_eq(text, times[i].text);
    }
}
END_TEST

START_TEST(values_and_text_make_one_line_however_long)
{
    struct json_text json = {0};
    json_text_put(&json, "[");
    for (int i = 0; i < 5000; i++) {
        json_text_value(&json, json_pack("{s:i,s:[f]}", "n", i, "r", 0.5));
        json_text_put(&json, ",");
    }
    json_text_instant(&json, 0);
    json_text_put(&json, "]");
    json_t *value = read_back(&json);
    ck_assert_uint_eq(json_array_size(value), 5001);
    ck_assert_int_eq(json_integer_value(json_object_get(json_array_get(value, 4999), "n")), 4999);
    json_decref(value);
}
END_TEST

START_TEST(a_value_that_could_not_be_made_fails_the_whole)
{
    struct json_text json = {0};
    json_text_put(&json, "[");
    json_text_value(&json, NULL);
    json_text_put(&json, "]");
    ck_assert_ptr_null(json_text_end(&json));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("json_text");
    TCase *cases = tcase_create("text");
    tcase_add_checked_fixture(cases, NULL, tear_down);
    tcase_add_test(cases, a_string_is_escaped_as_the_library_does_it);
    tcase_add_loop_test(cases, seconds_are_real_numbers_to_the_nanosecond, 0,
                        sizeof seconds / sizeof *seconds);
    tcase_add_test(cases, times_of_day_are_right_in_whatever_order_they_come);
    tcase_add_test(cases, values_and_text_make_one_line_however_long);
    tcase_add_test(cases, a_value_that_could_not_be_made_fails_the_whole);
    suite_add_tcase(suite, cases);
    return suite_run(suite, CK_NOFORK);
}
