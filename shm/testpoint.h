/*
 * Test points: instants right after something that another process can see.
 *
 * TESTPOINT("label") is nothing at all in a release build. Built with `scons testpoints=1` (which defines
 * POM_TESTPOINTS) the environment decides what happens there:
 *
 *   POM_TESTPOINT=label[:n]          the process is killed (SIGKILL) when it gets there for the n-th time
 *   POM_TESTPOINT_PAUSE=label:us     it sleeps so long each time it gets there, which opens a race wide
 *   POM_TESTPOINT=list               it prints all labels it holds, one a line, and exits
 *
 * Each use says in a sentence who sees what at that instant; docs/recovery.md tells for each what a kill
 * there leaves behind. No label may be reached from a signal handler.
 */
#ifndef SHM_TESTPOINT_H
#define SHM_TESTPOINT_H

#ifdef POM_TESTPOINTS

/** Called at each test point. Any thread. */
void testpoint_reached(const char *label);

/** Die at `label` for the n-th time; "label:n" as in the environment; NULL: never. For a process that goes on
 * from a fork. */
void testpoint_arm(const char *label, unsigned n);

/** Call `each` for every label that the program holds, in no order; one may come more than once. */
void testpoint_list(void (*each)(const char *label, void *context), void *context);

#define TESTPOINT(label_)                                                                                    \
    do {                                                                                                     \
        static const char *const testpoint_label __attribute__((used, section("pom_testpoints"))) = label_;  \
        testpoint_reached(testpoint_label);                                                                  \
    } while (0)

#else
#define TESTPOINT(label_) ((void)0)
#endif

#endif
