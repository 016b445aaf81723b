/* How the programs in tests/unit end: a suite of Check's is run, and main() returns what came of it. */
#ifndef TESTS_SUITE_H
#define TESTS_SUITE_H

#include <check.h>
#include <stdlib.h>
#include <urcu.h>

/** Run and free `suite`, on a thread that may read and publish as the service's own does. The exit status. */
static inline int suite_run(Suite *suite, enum fork_status fork_status)
{
    rcu_register_thread();
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, fork_status);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    rcu_unregister_thread();
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

#endif
