/*
 * The reference for the sampler's tick: a thread that sleeps to the same kind of deadlines (one in each
 * interval, at a random moment of it), with the same slack, and does nothing else. A shared library, so that
 * it runs inside the very process that is being sampled: `bare_start` starts the thread, `bare_stop` ends it
 * and tells its ticks and the CPU time that they took (that of its start is not counted).
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <time.h>

__attribute__((visibility("default"))) int bare_start(uint64_t interval_ns);
__attribute__((visibility("default"))) void bare_stop(uint64_t *ticks, uint64_t *cpu_ns);

static pthread_t thread;
static _Atomic int stop;
static uint64_t interval, ticks_done, cpu_used;

static uint64_t now_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void *run(void *unused)
{
    uint64_t base = now_ns(CLOCK_MONOTONIC), x = base | 1;
    (void)unused;
    prctl(PR_SET_NAME, "bare-timer", 0, 0, 0);
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
    uint64_t cpu_before = now_ns(CLOCK_THREAD_CPUTIME_ID);
    while (!atomic_load(&stop)) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        uint64_t deadline = base + x % interval;
        struct timespec t = {.tv_sec = (time_t)(deadline / 1000000000u),
                             .tv_nsec = (long)(deadline % 1000000000u)};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
        base += interval;
        ticks_done++;
    }
    cpu_used = now_ns(CLOCK_THREAD_CPUTIME_ID) - cpu_before;
    return NULL;
}

int bare_start(uint64_t interval_ns)
{
    sigset_t all, before;
    interval = interval_ns;
    ticks_done = 0;
    atomic_store(&stop, 0);
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int error = pthread_create(&thread, NULL, run, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

void bare_stop(uint64_t *ticks, uint64_t *cpu_ns)
{
    atomic_store(&stop, 1);
    pthread_join(thread, NULL);
    *ticks = ticks_done;
    *cpu_ns = cpu_used;
}
