/* The mutex that a worker's sampler thread holds for life: what the other side sees of it, however the holder
 * ends. */
#include <check.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shm/alive.h"
#include "tests/unit/suite.h"

static struct alive *page;

static void set_up(void)
{
    page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(page, MAP_FAILED);
}

static void take_down(void)
{
    munmap(page, 4096);
}

/* What the kernel and the holder write into the mutex. */
static uint32_t mutex_word(void)
{
    const void *word = (const uint8_t *)page + alive_word_offset();
    return atomic_load((const _Atomic uint32_t *)word);
}

static bool is_over(void)
{
    return alive_is_over(atomic_load(&page->holder), mutex_word());
}

static void *hold_for_life(void *unused)
{
    alive_hold(page);
    pause();
    return unused;
}

static void *hold_and_end(void *unused)
{
    alive_hold(page);
    return unused;
}

static void *hold_and_release(void *unused)
{
    alive_hold(page);
    alive_release(page);
    return unused;
}

/* A process with a thread that runs `work`, up to when it holds. */
static pid_t worker_of(void *(*work)(void *))
{
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        pthread_t thread;
        pthread_create(&thread, NULL, work, NULL);
        for (;;)
            pause();
    }
    while (atomic_load(&page->holder) == ALIVE_COMING)
        usleep(1000);
    return pid;
}

enum {
    PATIENCE_MS = 30000,
};

static void await_end(void)
{
    for (int i = 0; i < PATIENCE_MS && !is_over(); i++)
        usleep(1000);
}

static void kill_worker(pid_t pid)
{
    kill(pid, SIGKILL);
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
}

START_TEST(nothing_is_over_before_it_was_held)
{
    ck_assert(!is_over());
    alive_renounce(page);
    alive_hold(page);
    ck_assert_uint_eq(atomic_load(&page->holder), ALIVE_NO_ONE);
    ck_assert(!is_over());
}
END_TEST

START_TEST(a_stopped_worker_lives_and_a_killed_one_does_not)
{
    pid_t pid = worker_of(hold_for_life);
    ck_assert_uint_eq(atomic_load(&page->holder), ALIVE_HELD);
    kill(pid, SIGSTOP);
    usleep(20000);
    ck_assert(!is_over());
    kill(pid, SIGCONT);
    usleep(20000);
    ck_assert(!is_over());
    kill_worker(pid);
    ck_assert(is_over());
}
END_TEST

START_TEST(the_end_of_the_thread_is_seen_while_its_process_lives)
{
    pid_t pid = worker_of(hold_and_end);
    await_end();
    ck_assert(is_over());
    kill_worker(pid);
}
END_TEST

START_TEST(what_was_released_is_not_over)
{
    pid_t pid = worker_of(hold_and_release);
    for (int i = 0; i < PATIENCE_MS && mutex_word() != 0; i++)
        usleep(1000);
    kill_worker(pid);
    ck_assert(!is_over());
}
END_TEST

START_TEST(a_program_that_becomes_another_is_over)
{
    pid_t pid = fork();
    if (pid == 0) {
        pthread_t thread;
        pthread_create(&thread, NULL, hold_for_life, NULL);
        while (atomic_load(&page->holder) == ALIVE_COMING)
            usleep(1000);
        execlp("sleep", "sleep", "30", (char *)NULL);
        _exit(127);
    }
    await_end();
    ck_assert(is_over());
    ck_assert_int_eq(kill(pid, 0), 0);
    kill_worker(pid);
}
END_TEST

START_TEST(a_childs_end_is_not_its_parents)
{
    pid_t pid = fork();
    if (pid == 0) {
        alive_hold(page); /* this thread's own robust list, which a fork does not hand on */
        pid_t child = fork();
        if (child == 0)
            _exit(0);
        waitpid(child, NULL, 0);
        _exit(is_over() ? 1 : 0);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    ck_assert_int_eq(status, 0);
    ck_assert(is_over());
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("alive");
    TCase *tests = tcase_create("alive");
    tcase_add_checked_fixture(tests, set_up, take_down);
    tcase_add_test(tests, nothing_is_over_before_it_was_held);
    tcase_add_test(tests, a_stopped_worker_lives_and_a_killed_one_does_not);
    tcase_add_test(tests, the_end_of_the_thread_is_seen_while_its_process_lives);
    tcase_add_test(tests, what_was_released_is_not_over);
    tcase_add_test(tests, a_program_that_becomes_another_is_over);
    tcase_add_test(tests, a_childs_end_is_not_its_parents);
    suite_add_tcase(suite, tests);
    return suite_run(suite, CK_FORK);
}
