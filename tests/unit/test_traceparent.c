/* Promises of the traceparent reader: what the specification allows is read, anything else is as if not
 * there. */
#include <check.h>
#include <string.h>

#include "pybind/traceparent.h"
#include "tests/unit/suite.h"

#define TRACE "0af7651916cd43dd8448eb211c80319c"
#define SPAN "b7ad6b7169203331"

static bool reads(const char *text)
{
    struct traceparent parent;
    return traceparent_parse(text, strlen(text), &parent);
}

START_TEST(a_header_of_version_00_gives_its_two_ids)
{
    struct traceparent parent;
    const char *text = "00-" TRACE "-" SPAN "-01";
    ck_assert(traceparent_parse(text, strlen(text), &parent));
    ck_assert_uint_eq(parent.trace_id[0], 0x0a);
    ck_assert_uint_eq(parent.trace_id[15], 0x9c);
    ck_assert_uint_eq(parent.parent_id[0], 0xb7);
    ck_assert_uint_eq(parent.parent_id[7], 0x31);
}
END_TEST

START_TEST(a_later_version_may_append_fields)
{
    ck_assert(reads("cc-" TRACE "-" SPAN "-01"));
    ck_assert(reads("cc-" TRACE "-" SPAN "-01-what-comes"));
    ck_assert(!reads("cc-" TRACE "-" SPAN "-01what-comes"));
    ck_assert(!reads("00-" TRACE "-" SPAN "-01-what-comes"));
}
END_TEST

START_TEST(what_is_not_allowed_is_as_if_not_there)
{
    static const char *const refused[] = {
        "",
        "00",
        "ff-" TRACE "-" SPAN "-01",
        "0x-" TRACE "-" SPAN "-01",
        "00-00000000000000000000000000000000-" SPAN "-01",
        "00-" TRACE "-0000000000000000-01",
        "00-0AF7651916CD43DD8448EB211C80319C-" SPAN "-01",
        "00-" TRACE "-" SPAN "-0",
        "00-" TRACE "-" SPAN "-0g",
        "00_" TRACE "-" SPAN "-01",
        "00-" TRACE "_" SPAN "-01",
        "00-" TRACE "-" SPAN "_01",
        " 00-" TRACE "-" SPAN "-01",
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        ck_assert_msg(!reads(refused[i]), "'%s'", refused[i]);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("traceparent");
    TCase *tests = tcase_create("all");
    tcase_add_test(tests, a_header_of_version_00_gives_its_two_ids);
    tcase_add_test(tests, a_later_version_may_append_fields);
    tcase_add_test(tests, what_is_not_allowed_is_as_if_not_there);
    suite_add_tcase(suite, tests);
    return suite_run(suite, CK_FORK);
}
