/*
 * References for the sampler's tick: a thread that sleeps to the same kind of deadlines (one in each
 * interval, at a random moment of it), with the same slack, and does nothing else; or nothing else but the
 * two system calls that a tick cannot do without: it reads the CPU clock of the thread that started it, and
 * copies 4 KiB of that thread's stack in eight pieces into a memfd. A shared library, so that it runs inside
 * the very process that is being sampled: `bare_start` starts timer `which`, `bare_stop` ends it and tells
 * its ticks and the CPU time that they took (that of its start is not counted).
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
    BARE = 0,
    WITH_CALLS = 1,
    TIMERS = 2,
    PIECES = 8,
    PIECE_BYTES = 512,
};

__attribute__((visibility("default"))) int bare_start(int which, uint64_t interval_ns);
__attribute__((visibility("default"))) void bare_stop(int which, uint64_t *ticks, uint64_t *cpu_ns);

static struct timer {
    pthread_t thread;
    _Atomic int stop;
    uint64_t interval, ticks_done, cpu_used;
    int scratch; /* of a timer with calls; -1: none */
    clockid_t clock;
    struct iovec piece[PIECES];
} timers[TIMERS];

static uint64_t now_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void *run(void *argument)
{
    struct timer *timer = argument;
    uint64_t base = now_ns(CLOCK_MONOTONIC), x = base | 1;
    prctl(PR_SET_NAME, "bare-timer", 0, 0, 0);
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
    uint64_t cpu_before = now_ns(CLOCK_THREAD_CPUTIME_ID);
    while (!atomic_load(&timer->stop)) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        uint64_t deadline = base + x % timer->interval;
        struct timespec t = {.tv_sec = (time_t)(deadline / 1000000000u),
                             .tv_nsec = (long)(deadline % 1000000000u)};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
        base += timer->interval;
        timer->ticks_done++;
        if (timer->scratch >= 0 && now_ns(timer->clock) != 0 &&
            pwritev(timer->scratch, timer->piece, PIECES, 0) != PIECES * PIECE_BYTES)
            break; /* its ticks would be told too cheap: there are too few of them now */
    }
    timer->cpu_used = now_ns(CLOCK_THREAD_CPUTIME_ID) - cpu_before;
    return NULL;
}

int bare_start(int which, uint64_t interval_ns)
{
    struct timer *timer = &timers[which];
    sigset_t all, before;
    timer->interval = interval_ns;
    timer->ticks_done = 0;
    timer->scratch = -1;
    atomic_store(&timer->stop, 0);
    if (which == WITH_CALLS) {
        timer->scratch = memfd_create("bare-scratch", MFD_CLOEXEC);
        if (timer->scratch < 0 || pthread_getcpuclockid(pthread_self(), &timer->clock) != 0)
            return -1;
        for (int i = 0; i < PIECES; i++) /* the frames of our callers, which stay where they are */
            timer->piece[i] =
                (struct iovec){(char *)__builtin_frame_address(0) + (size_t)i * PIECE_BYTES, PIECE_BYTES};
    }
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int error = pthread_create(&timer->thread, NULL, run, timer);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

void bare_stop(int which, uint64_t *ticks, uint64_t *cpu_ns)
{
    struct timer *timer = &timers[which];
    atomic_store(&timer->stop, 1);
    pthread_join(timer->thread, NULL);
    if (timer->scratch >= 0)
        close(timer->scratch);
    *ticks = timer->ticks_done;
    *cpu_ns = timer->cpu_used;
}
