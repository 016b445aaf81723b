/* Promises of the path normaliser: a bounded, readable set of names, whatever bytes a client sends. */
#include <check.h>
#include <string.h>

#include "pybind/path.h"
#include "tests/unit/suite.h"

static const char *normal(const char *path)
{
    static char out[PATH_NAME_MAX + 1];
    size_t n = path_normalise(path, strlen(path), out);
    ck_assert_uint_le(n, PATH_NAME_MAX);
    out[n] = '\0';
    return out;
}

START_TEST(numbers_uuids_and_hex_runs_become_placeholders)
{
    ck_assert_str_eq(normal("/item/1234"), "/item/<int>");
    ck_assert_str_eq(normal("/item/7/edit"), "/item/<int>/edit");
    ck_assert_str_eq(normal("/o/3f2504e0-4f89-41d3-9a0c-0305e82c3301"), "/o/<uuid>");
    ck_assert_str_eq(normal("/blob/deadbeef01"), "/blob/<hex>");
    ck_assert_str_eq(normal("/order-20231105.pdf"), "/order-<int>.pdf");
}
END_TEST

START_TEST(words_and_versions_stay)
{
    ck_assert_str_eq(normal("/api/v2/cart"), "/api/v2/cart");
    ck_assert_str_eq(normal("/facade"), "/facade");
    ck_assert_str_eq(normal("/a//b/"), "/a//b/");
    ck_assert_str_eq(normal(""), "/");
    ck_assert_str_eq(normal("/caf\xc3\xa9"), "/caf\xc3\xa9");
}
END_TEST

START_TEST(bytes_that_are_no_text_become_question_marks)
{
    ck_assert_str_eq(normal("/a\xff\xfe"), "/a??");
    ck_assert_str_eq(normal("/a\nb\x7f"), "/a?b?");
    ck_assert_str_eq(normal("/\xc0\xaf"), "/??");
    ck_assert_str_eq(normal("/\xed\xa0\x80"), "/???");
    ck_assert_str_eq(normal("/x\xe2\x82"), "/x??");
}
END_TEST

START_TEST(a_long_path_is_cut_at_a_character)
{
    char path[3001], out[PATH_NAME_MAX];
    path[0] = '/';
    for (int i = 1; i < 3000; i += 3)
        memcpy(path + i, "\xe2\x82\xac", 3);
    size_t n = path_normalise(path, 2998, out);
    ck_assert_uint_le(n, PATH_NAME_MAX);
    ck_assert_uint_ge(n, PATH_NAME_MAX - 3);
    ck_assert_uint_eq((n - 1) % 3, 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("path");
    TCase *cases = tcase_create("path");
    tcase_add_test(cases, numbers_uuids_and_hex_runs_become_placeholders);
    tcase_add_test(cases, words_and_versions_stay);
    tcase_add_test(cases, bytes_that_are_no_text_become_question_marks);
    tcase_add_test(cases, a_long_path_is_cut_at_a_character);
    suite_add_tcase(suite, cases);
    return suite_run(suite, CK_FORK);
}
