/* What threads wait for in the kernel, with files that stay open and without. */
#include <check.h>
#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/kernel_wait.h"
#include "tests/unit/suite.h"

enum {
    CROWD = 3 * KERNEL_WAIT_FILES,
};

struct waiter {
    pthread_t thread;
    _Atomic int32_t tid;
    int ends[2]; /* of a pipe */
    pthread_mutex_t *mutex;
};

static void *wait_in_read(void *argument)
{
    struct waiter *waiter = argument;
    char byte;
    atomic_store(&waiter->tid, (int32_t)syscall(SYS_gettid));
    ck_assert_int_ge(read(waiter->ends[0], &byte, 1), 0);
    return NULL;
}

static void *wait_for_mutex(void *argument)
{
    struct waiter *waiter = argument;
    atomic_store(&waiter->tid, (int32_t)syscall(SYS_gettid));
    pthread_mutex_lock(waiter->mutex);
    pthread_mutex_unlock(waiter->mutex);
    return NULL;
}

static void start(struct waiter *waiter, void *(*body)(void *))
{
    ck_assert_int_eq(pipe(waiter->ends), 0);
    ck_assert_int_eq(pthread_create(&waiter->thread, NULL, body, waiter), 0);
    while (atomic_load(&waiter->tid) == 0)
        sched_yield();
}

static void end(struct waiter *waiter)
{
    close(waiter->ends[1]);
    pthread_join(waiter->thread, NULL);
    close(waiter->ends[0]);
}

/* The thread comes to its wait in a moment; the test's own time limit bounds that. */
static enum kernel_wait settles(int32_t tid, uintptr_t *word)
{
    enum kernel_wait wait;
    while ((wait = kernel_wait_of(tid, word)) == KERNEL_WAIT_NONE)
        sched_yield();
    return wait;
}

static int open_descriptors(void)
{
    int n = 0;
    DIR *folder = opendir("/proc/self/fd");
    while (readdir(folder) != NULL)
        n++;
    closedir(folder);
    return n;
}

START_TEST(test_waits_are_told_apart)
{
    uintptr_t word = 0;
    kernel_wait_keep_open(_i != 0);
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&mutex);
    struct waiter reader = {0}, locker = {.mutex = &mutex};
    start(&reader, wait_in_read);
    start(&locker, wait_for_mutex);
    for (int again = 0; again < 3; again++) {
        ck_assert_int_eq(settles(reader.tid, &word), KERNEL_WAIT_OTHER);
        ck_assert_int_eq(settles(locker.tid, &word), KERNEL_WAIT_FUTEX);
        ck_assert_uint_ge(word, (uintptr_t)&mutex);
        ck_assert_uint_lt(word, (uintptr_t)(&mutex + 1));
    }
    pthread_mutex_unlock(&mutex);
    end(&reader);
    end(&locker);
    ck_assert_int_eq(kernel_wait_of(reader.tid, &word), KERNEL_WAIT_UNKNOWN);
    kernel_wait_keep_open(false);
}
END_TEST

static _Atomic bool stop;

static void *spin(void *argument)
{
    struct waiter *waiter = argument;
    atomic_store(&waiter->tid, (int32_t)syscall(SYS_gettid));
    while (!atomic_load(&stop))
        continue;
    return NULL;
}

START_TEST(test_one_that_runs_waits_for_nothing)
{
    uintptr_t word;
    struct waiter spinner = {0};
    start(&spinner, spin);
    for (int i = 0; i < 100; i++)
        ck_assert_int_eq(kernel_wait_of(spinner.tid, &word), KERNEL_WAIT_NONE);
    atomic_store(&stop, true);
    end(&spinner);
}
END_TEST

/* More threads than files, whose numbers share places: each answer is of the thread that was asked about. */
START_TEST(test_a_crowd_keeps_few_files)
{
    static struct waiter crowd[CROWD];
    uintptr_t word;
    kernel_wait_keep_open(true);
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&mutex);
    for (int i = 0; i < CROWD; i++) {
        crowd[i] = (struct waiter){.mutex = &mutex};
        start(&crowd[i], i % 3 == 0 ? wait_for_mutex : wait_in_read);
    }
    const int before = open_descriptors();
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < CROWD; i++)
            ck_assert_int_eq(settles(crowd[i].tid, &word),
                             i % 3 == 0 ? KERNEL_WAIT_FUTEX : KERNEL_WAIT_OTHER);
    }
    ck_assert_int_gt(open_descriptors(), before);
    ck_assert_int_le(open_descriptors(), before + KERNEL_WAIT_FILES);
    pthread_mutex_unlock(&mutex);
    for (int i = 0; i < CROWD; i++)
        end(&crowd[i]);
    kernel_wait_keep_open(false);
    ck_assert_int_eq(open_descriptors(), before - 2 * CROWD);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("kernel_wait");
    TCase *waits = tcase_create("waits");
    tcase_set_timeout(waits, 60);
    tcase_add_loop_test(waits, test_waits_are_told_apart, 0, 2);
    tcase_add_test(waits, test_one_that_runs_waits_for_nothing);
    tcase_add_test(waits, test_a_crowd_keeps_few_files);
    suite_add_tcase(suite, waits);
    return suite_run(suite, CK_FORK);
}
