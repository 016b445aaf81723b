/*
 * Promises of ordering, for ThreadSanitizer: what is published through a lane, a definition area, the budget
 * word, the rates file and the list of windows is seen whole, with no access that only luck keeps apart (0
 * reports end this program well). Under the sanitizer it also asserts that the same scenarios are reported
 * once their ordering is taken away.
 */
#include <check.h>
#include <libgen.h>
#include <stdio.h>
#include <sys/wait.h>

#include "tests/unit/suite.h"
#include "tests/unit/thread_scenarios.h"

#if defined(__SANITIZE_THREAD__)
#define UNDER_THREAD_SANITIZER
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_THREAD_SANITIZER
#endif
#endif

START_TEST(what_is_published_is_seen_whole_and_in_order)
{
    ck_assert_uint_eq(scenarios[_i].run(), 0);
}
END_TEST

#ifdef UNDER_THREAD_SANITIZER
START_TEST(without_its_ordering_it_is_reported)
{
    enum { REPORTED = 66 };
    char self[512], program[600], options[64];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    ck_assert_int_gt(n, 0);
    self[n] = '\0';
    snprintf(program, sizeof program, "%s/drive_weak_threads", dirname(self));
    snprintf(options, sizeof options, "exitcode=%d halt_on_error=1", REPORTED);
    pid_t pid = fork();
    if (pid == 0) {
        setenv("TSAN_OPTIONS", options, 1);
        int quiet = open("/dev/null", O_WRONLY);
        dup2(quiet, STDERR_FILENO);
        execl(program, program, scenarios[_i].name, (char *)NULL);
        _exit(127);
    }
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), REPORTED);
}
END_TEST
#endif

int main(void)
{
    Suite *suite = suite_create("threads");
    TCase *cases = tcase_create("ordering");
    tcase_set_timeout(cases, 120);
    tcase_add_loop_test(cases, what_is_published_is_seen_whole_and_in_order, 0, SCENARIOS);
#ifdef UNDER_THREAD_SANITIZER
    tcase_add_loop_test(cases, without_its_ordering_it_is_reported, 0, SCENARIOS);
#endif
    suite_add_tcase(suite, cases);
    return suite_run(suite, CK_NOFORK);
}
