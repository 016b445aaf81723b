/* The sampler thread: see sampler.h. */
#include "runtime/sampler.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/action.h"
#include "runtime/first_thread.h"
#include "runtime/limits.h"
#include "runtime/notice.h"
#include "runtime/place.h"
#include "runtime/sample.h"
#include "runtime/spawn.h"
#include "runtime/tick_path.h"
#include "runtime/worker.h"
#include "shm/fault.h"

enum {
    STACK_BYTES = 512 << 10,
    SPAWNS = 3, /* aggregators started at most in SPAWN_WINDOW_NS */
    AGGREGATOR_WAIT_MS = 3000,
    NAP_MS = 100, /* how often it looks whether it may sample, where it cannot or need not wait to be woken */
};
#define SPAWN_WINDOW_NS (60 * NS_PER_SECOND)
#define RESTART_NS (30 * NS_PER_SECOND)
#define PUBLISH_NS (100 * UINT64_C(1000000)) /* between two readings of our own CPU clock */

enum sampler_state {
    STATE_NONE = 0,
    STATE_RUNNING = 1,
    STATE_PARKED = 2, /* waits on the futex */
    STATE_HELD = 3,   /* waits, and may not be woken: its segment is being replaced */
};

static struct {
    _Atomic uint32_t state; /* futex */
    _Atomic uint32_t look;  /* look for an aggregator */
    _Atomic uint32_t stop;
    _Atomic uint32_t watch; /* scope "process": do not wait for actions */
    _Atomic uint32_t rest;  /* a GIL holder wants it parked as soon as nothing is armed */
    _Atomic uint32_t tid;
    _Atomic uint64_t woken_ns; /* when it was woken, by whoever did */
    _Atomic uint64_t until_ns; /* parked: when it wakes by itself for a candidate */
    uint64_t looked_ns;        /* GIL holders: when a look was asked for last */
    uint64_t started_ns;       /* GIL holders: when it was last tried to start the thread */
    /* the rest is the thread's own */
    uint64_t spawned_ns[SPAWNS];
    uint64_t cpu_base_ns;
    uint64_t next_slot_ns; /* where the next interval begins at the earliest */
    uint64_t published_ns;
    uint64_t random;
    struct segment former; /* replaced, and still held by the thread; none: base NULL */
} sampler;

/* False once `timeout` (NULL: never) has passed. */
static bool futex_wait(_Atomic uint32_t *word, uint32_t value, const struct timespec *timeout)
{
    return syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, timeout, NULL, 0) == 0 || errno != ETIMEDOUT;
}

static void futex_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* ---- parking ------------------------------------------------------------------------------------------- */

/* Pairs with park(): there the state is stored before `armed`, `ended`, `look` and `stop` are loaded, here
 * they were stored before the state is loaded, all sequentially consistent; so one of the two sees the other.
 */
void sampler_wake(uint64_t now_ns)
{
    uint32_t parked = STATE_PARKED;
    if (atomic_load(&sampler.state) != STATE_PARKED)
        return;
    atomic_store_explicit(&sampler.woken_ns, now_ns, memory_order_relaxed);
    if (atomic_compare_exchange_strong(&sampler.state, &parked, STATE_RUNNING))
        futex_wake(&sampler.state);
}

static bool has_work(void)
{
    return atomic_load(&slots.armed) != 0 || atomic_load(&slots.ended) != 0 ||
           atomic_load(&sampler.look) != 0 || atomic_load(&sampler.stop) != 0;
}

/* How long to be parked; NULL: until woken. */
static const struct timespec *parked_for(struct timespec *time)
{
    atomic_store(&sampler.until_ns, UINT64_MAX); /* who comes while it looks is to wake it */
    uint64_t left_ns = UINT64_MAX, due_ns = slots_next_due(), now = clock_monotonic_ns();
    atomic_store(&sampler.until_ns, due_ns);
    if (due_ns != UINT64_MAX)
        left_ns = due_ns > now ? due_ns - now : 0;
    if (atomic_load(&sampler.watch) != 0 && left_ns > NAP_MS * UINT64_C(1000000))
        left_ns = NAP_MS * UINT64_C(1000000);
    *time = (struct timespec){.tv_sec = (time_t)(left_ns / NS_PER_SECOND),
                              .tv_nsec = (long)(left_ns % NS_PER_SECOND)};
    return left_ns != UINT64_MAX ? time : NULL;
}

static void park(void)
{
    struct timespec time;
    atomic_store(&sampler.until_ns, UINT64_MAX);
    atomic_store(&sampler.state, STATE_PARKED);
    if (has_work())
        sampler_wake(clock_monotonic_ns());
    for (uint32_t state; (state = atomic_load(&sampler.state)) != STATE_RUNNING;)
        if (!futex_wait(&sampler.state, state, parked_for(&time)))
            sampler_wake(clock_monotonic_ns()); /* not if it is held */
    atomic_store(&sampler.rest, 0);
}

/* Pairs with park() as sampler_wake does: the candidate stands in its slot before the state and `until_ns`
 * are loaded here, and there it is looked for after both were stored; so it is seen, or the sampler is woken.
 */
void sampler_expect(uint64_t due_ns)
{
    if (atomic_load(&sampler.state) == STATE_PARKED && atomic_load(&sampler.until_ns) > due_ns)
        sampler_wake(clock_monotonic_ns());
}

bool sampler_hold(void)
{
    uint32_t parked = STATE_PARKED;
    if (atomic_load(&slots.armed) == 0 && atomic_load(&slots.waiting) == 0 &&
        atomic_compare_exchange_strong(&sampler.state, &parked, STATE_HELD))
        return true;
    atomic_store(&sampler.rest, 1);
    return false;
}

void sampler_release(void)
{
    /* In any case: it has a new segment to take hold of, and parks again if there is nothing else. */
    atomic_store_explicit(&sampler.woken_ns, clock_monotonic_ns(), memory_order_relaxed);
    atomic_store(&sampler.state, STATE_RUNNING);
    futex_wake(&sampler.state);
}

void sampler_watch(bool process)
{
    atomic_store(&sampler.watch, process);
    sampler_wake(clock_monotonic_ns()); /* it parks again, with or without an end */
}

void sampler_look_for_aggregator(uint64_t now_ns)
{
    if (now_ns - sampler.looked_ns < NS_PER_SECOND)
        return;
    sampler.looked_ns = now_ns;
    if (atomic_load(&sampler.state) == STATE_NONE && now_ns - sampler.started_ns > RESTART_NS)
        sampler_start(); /* there was no thread to be had; there may be by now */
    atomic_store(&sampler.look, 1);
    sampler_wake(clock_monotonic_ns());
}

void sampler_stop(void)
{
    atomic_store(&sampler.stop, 1);
    sampler_wake(clock_monotonic_ns());
}

/* ---- the aggregator ------------------------------------------------------------------------------------ */

static void sleep_until(uint64_t deadline_ns)
{
    struct timespec t = {.tv_sec = (time_t)(deadline_ns / NS_PER_SECOND),
                         .tv_nsec = (long)(deadline_ns % NS_PER_SECOND)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {
    }
}

static bool may_spawn(uint64_t now)
{
    for (int i = 0; i < SPAWNS; i++)
        if (sampler.spawned_ns[i] == 0 || now - sampler.spawned_ns[i] > SPAWN_WINDOW_NS) {
            sampler.spawned_ns[i] = now;
            return true;
        }
    return false;
}

/* Is there anything to go by? What was mapped may be good although it cannot be mapped again just now, as
 * where the process may have no more descriptors. */
static bool is_served(uint64_t now)
{
    struct rates rates;
    uint64_t generation = 0;
    return limits_alive(now) && limits_rates(&rates, &generation) && rates.interval_ns != 0;
}

/* Find the aggregator's files, or start one and wait for them. Nothing is profiled meanwhile. */
static void look_for_aggregator(void)
{
    const struct worker_settings *settings = &worker.settings;
    atomic_store(&sampler.look, 0);
    uint64_t start = clock_monotonic_ns();
    int rc = limits_refresh();
    if (is_served(start))
        return;
    if (settings->aggregator[0] != '\0' && !spawn_is_served(settings->directory) && may_spawn(start)) {
        place_leave();
        rc = spawn_aggregator(settings->aggregator, settings->directory);
        if (rc != 0) {
            notice_defer(NOTICE_NO_AGGREGATOR, "nothing is profiled, the application runs on: %s",
                         fault_text());
            return;
        }
    }
    for (uint64_t now = start, pause = 5 * 1000 * 1000; now - start < AGGREGATOR_WAIT_MS * UINT64_C(1000000);
         now = clock_monotonic_ns()) {
        rc = limits_refresh();
        if (atomic_load(&sampler.stop) != 0 || is_served(now))
            return;
        sleep_until(now + pause);
        pause = pause < 100 * 1000 * 1000 ? 2 * pause : pause;
    }
    if (rc == -EPROTO) /* of another version: that can be helped, if it is known */
        notice_defer(NOTICE_NO_AGGREGATOR, "nothing is profiled, the application runs on: %s", fault_text());
    else if (!limits_alive(clock_monotonic_ns()))
        notice_defer(NOTICE_NO_AGGREGATOR,
                     "nothing is profiled, the application runs on: no aggregator serves %s",
                     settings->directory);
}

/* ---- sampling ------------------------------------------------------------------------------------------ */

static void publish(uint64_t now)
{
    struct worker_page *page = worker.segment.worker;
    sampler.published_ns = now;
    atomic_store_explicit(&page->sampler_cpu_ns, clock_read_ns(CLOCK_THREAD_CPUTIME_ID) - sampler.cpu_base_ns,
                          memory_order_relaxed);
    atomic_store_explicit(&page->process_cpu_ns, clock_read_ns(CLOCK_PROCESS_CPUTIME_ID),
                          memory_order_relaxed);
    atomic_store_explicit(&page->heartbeat_ns, now, memory_order_relaxed);
}

static uint64_t random_number(void)
{
    uint64_t x = sampler.random; /* xorshift64 (Marsaglia 2003) */
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return sampler.random = x;
}

/* Whether threads outside actions are to be sampled now. */
static bool samples_others(const struct rates *rates)
{
    return rates->process && !rates->paused && limits_alive(clock_monotonic_ns()) &&
           atomic_load_explicit(&sampler.rest, memory_order_relaxed) == 0;
}

static void ring_if_a_lane_fills(void)
{
    for (int i = 0; i < SEGMENT_LANES; i++)
        if (lane_is_filling(&worker.segment.lanes[i])) {
            limits_ring();
            return;
        }
}

static void admit_due(uint64_t now)
{
    if (atomic_load_explicit(&slots.waiting, memory_order_relaxed) != 0)
        slots_admit_due(now, limits_admit_late);
}

/* Tick until there is nothing to sample, or nothing to go by. */
TICK_PATH static void run(void)
{
    struct rates rates;
    uint64_t generation = 0, told_ns = 0;
    uint64_t now = atomic_load_explicit(&sampler.woken_ns, memory_order_relaxed);
    for (bool woken = true;; woken = false) {
        if (atomic_load_explicit(&sampler.stop, memory_order_relaxed) != 0 || reader_finalizing())
            return;
        if (atomic_load_explicit(&sampler.look, memory_order_relaxed) != 0) {
            look_for_aggregator();
            now = woken ? now : clock_monotonic_ns();
        }
        ring_if_a_lane_fills();
        uint64_t before = generation;
        if (!limits_rates(&rates, &generation) || rates.interval_ns == 0)
            return;
        if (generation != before || generation == 0)
            told_ns = rates.interval_ns;
        rates.interval_ns = limits_ceiling(told_ns, limits_silence(now));
        slots_reclaim_ended();
        admit_due(now);
        bool others = samples_others(&rates);
        if (atomic_load_explicit(&slots.armed, memory_order_relaxed) == 0 && !others)
            return;
        /* Time is cut into intervals with one tick each, whose weight is the interval. One that is over while
         * the sampler is parked leaves a gap; but a wake inside an interval whose tick has been spent waits
         * for its end, or actions in quick succession would get more ticks than their time stands for.
         * Intervals for whose ticks there was no core are made good by the next tick: they are no fair
         * choice, as cores are short while the application computes. */
        if (woken && now > sampler.next_slot_ns)
            sampler.next_slot_ns = now;
        uint64_t due_ns = sampler.next_slot_ns + random_number() % rates.interval_ns;
        sleep_until(due_ns);
        now = clock_monotonic_ns();
        place_note_tick(now > due_ns ? now - due_ns : 0, now);
        uint64_t spans =
            now > sampler.next_slot_ns ? 1 + (now - sampler.next_slot_ns) / rates.interval_ns : 1;
        sampler.next_slot_ns += spans * rates.interval_ns;
        admit_due(now); /* what is due by now is in this tick */
        sample_tick(&rates, others, spans, random_number());
        now = clock_monotonic_ns();
        if (now - sampler.published_ns >= PUBLISH_NS)
            publish(now);
    }
}

/* Where it cannot sample, what is armed does not let it park either: it must not spin. */
static bool can_sample(int copy_error)
{
    struct rates rates;
    uint64_t generation = 0;
    return copy_error == 0 && limits_rates(&rates, &generation) && rates.interval_ns != 0;
}

/* What stands for this process's life in its segment. It is not let go of at the thread's end: the kernel
 * tells whoever looks. */
static void take_hold(void)
{
    if (sampler.former.base != NULL) {
        alive_release(&sampler.former.worker->alive);
        segment_unmap(&sampler.former);
    }
    alive_hold(&worker.segment.worker->alive);
}

static void *sampler_main(void *unused)
{
    (void)unused;
    prctl(PR_SET_NAME, "pom-sampler", 0, 0, 0);
    /* The usual slack of 50 us would move every tick past the end of a short action, with nothing moved in at
     * its beginning, where a parked sampler has no tick under way. */
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
    atomic_store(&sampler.tid, (uint32_t)syscall(SYS_gettid));
    atomic_store(&worker.segment.worker->sampler_tid, atomic_load(&sampler.tid));
    take_hold();
    place_begin();
    int rc = sample_begin();
    if (rc != 0)
        notice_defer(NOTICE_NO_SAMPLER, "actions are counted, but no stack is sampled: %s", fault_text());
    atomic_store(&sampler.look, 1);
    while (atomic_load(&sampler.stop) == 0 && !reader_finalizing()) {
        take_hold();
        if (atomic_load(&sampler.look) != 0 ||
            (atomic_load(&sampler.watch) != 0 && !limits_alive(clock_monotonic_ns())))
            look_for_aggregator();
        if (rc == 0)
            run();
        slots_reclaim_ended(); /* also where nothing is sampled */
        if (!can_sample(rc))
            sleep_until(clock_monotonic_ns() + NAP_MS * UINT64_C(1000000));
        publish(clock_monotonic_ns());
        park();
    }
    sample_end();
    return NULL;
}

/* ---- life ---------------------------------------------------------------------------------------------- */

int sampler_start(void)
{
    sampler.started_ns = clock_monotonic_ns();
    if (first_thread_has_ended())
        return fault(ECANCELED, "a thread of ours would outlive the others, as the first thread has ended");
    int rc = sample_open();
    if (rc != 0)
        return rc;
    atomic_store(&sampler.stop, 0);
    atomic_store(&sampler.state, STATE_RUNNING);
    sampler.random = worker_random() | 1;
    atomic_store(&sampler.woken_ns, clock_monotonic_ns());
    sampler.cpu_base_ns = 0;

    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before); /* the new thread inherits it */
    int error = pthread_create(&thread, &attributes, sampler_main, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (error != 0) {
        atomic_store(&sampler.state, STATE_NONE);
        return fault(error, "cannot start the sampler thread");
    }
    return 0;
}

void sampler_begin_segment(const struct segment *former)
{
    sampler.former = *former;
    sample_begin_segment();
    uint32_t tid = atomic_load(&sampler.tid);
    atomic_store(&worker.segment.worker->sampler_tid, tid);
    /* The thread's clock goes on; what it shows so far belongs to the former segment. */
    sampler.cpu_base_ns = clock_read_ns(clock_of_thread((int32_t)tid));
}

void sampler_after_fork(void)
{
    sample_after_fork();
    sampler.former.base = NULL; /* it was not inherited */
    atomic_store(&sampler.state, STATE_NONE);
    atomic_store(&sampler.look, 0);
    atomic_store(&sampler.stop, 0);
    atomic_store(&sampler.rest, 0);
    sampler.looked_ns = 0;
    memset(sampler.spawned_ns, 0, sizeof sampler.spawned_ns);
    sampler.next_slot_ns = 0;
}
