/*
 * Clocks: the one place that reads time.
 *
 * All times that cross a process boundary are nanoseconds of CLOCK_MONOTONIC, which is the same clock for
 * every process of a machine; each segment header also notes the realtime clock at the same instant, so that
 * a reader can turn one into the other.
 */
#ifndef SHM_CLOCK_H
#define SHM_CLOCK_H

#include <stdint.h>
#include <time.h>

#define NS_PER_SECOND UINT64_C(1000000000)

/** Nanoseconds of the given clock. Any thread; async-signal-safe. */
static inline uint64_t clock_read_ns(clockid_t clock)
{
    struct timespec t;
    if (clock_gettime(clock, &t) != 0)
        return 0;
    return (uint64_t)t.tv_sec * NS_PER_SECOND + (uint64_t)t.tv_nsec;
}

/** CLOCK_MONOTONIC in nanoseconds (about 20 ns a call, no system call). */
static inline uint64_t clock_monotonic_ns(void)
{
    return clock_read_ns(CLOCK_MONOTONIC);
}

/** CLOCK_REALTIME in nanoseconds since 1970. */
static inline uint64_t clock_realtime_ns(void)
{
    return clock_read_ns(CLOCK_REALTIME);
}

/**
 * The clock id of another thread's CPU time within this process (`CPUCLOCK_PERTHREAD | CPUCLOCK_SCHED`, see
 * include/linux/posix-timers.h of the kernel). Reading it fails with EINVAL once the thread has gone.
 */
static inline clockid_t clock_of_thread(int32_t tid)
{
    return (clockid_t)((~(uint32_t)tid << 3) | 6u);
}

/** The clock id of a whole process's CPU time (`CPUCLOCK_SCHED`), readable for any process. */
static inline clockid_t clock_of_process(int32_t pid)
{
    return (clockid_t)((~(uint32_t)pid << 3) | 2u);
}

#endif
