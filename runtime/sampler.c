/* The sampler thread: see sampler.h. */
#include "runtime/sampler.h"

#include <errno.h>
#include <linux/close_range.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/action.h"
#include "runtime/limits.h"
#include "runtime/notice.h"
#include "runtime/spawn.h"
#include "runtime/stacks.h"
#include "runtime/worker.h"
#include "shm/fault.h"

enum {
    STACK_BYTES = 512 << 10,
    OTHERS = 128,      /* threads outside actions that are sampled with scope "process" */
    LIST_EVERY = 10,   /* ticks between two looks at the list of threads */
    PUBLISH_EVERY = 8, /* ticks between two readings of our own CPU clock */
    SWEEP_EVERY = 512, /* ticks between two sweeps of the code table */
    SPAWNS = 3,        /* aggregators started at most in SPAWN_WINDOW_NS */
    AGGREGATOR_WAIT_MS = 3000,
    NAP_MS = 100, /* how often it looks whether it may sample, where it cannot or need not wait to be woken */
};
#define SPAWN_WINDOW_NS (60 * NS_PER_SECOND)
#define RESTART_NS (30 * NS_PER_SECOND)

enum sampler_state {
    STATE_NONE = 0,
    STATE_RUNNING = 1,
    STATE_PARKED = 2, /* waits on the futex */
    STATE_HELD = 3,   /* waits, and may not be woken: its segment is being replaced */
};

/* What is remembered of a thread between its samples. */
struct view {
    int32_t tid;
    uint64_t tstate_id;
    bool valid;          /* stack and state below are those of the last sample */
    uint64_t sampled_ns; /* when it was sampled last, and its CPU clock then */
    uint64_t sampled_cpu_ns;
    uint32_t stack;
    uint32_t state;
    uint32_t flags;
    struct reader_prediction prediction;
    struct stack_memory memory;
};

/* All that the thread owns; reserved once a process, touched as far as it is used. */
struct workspace {
    struct copy copy;
    struct stack stack;
    struct view slot[SLOTS];
    struct view other[OTHERS];
    struct reader_thread list[OTHERS];
    int listed;
};

static struct {
    _Atomic uint32_t state; /* futex */
    _Atomic uint32_t look;  /* look for an aggregator */
    _Atomic uint32_t stop;
    _Atomic uint32_t watch; /* scope "process": do not wait for actions */
    _Atomic uint32_t rest;  /* a GIL holder wants it parked as soon as nothing is armed */
    _Atomic uint32_t tid;
    _Atomic uint64_t woken_ns; /* when it was woken, by whoever did */
    uint64_t looked_ns;        /* GIL holders: when a look was asked for last */
    uint64_t started_ns;       /* GIL holders: when it was last tried to start the thread */
    /* the rest is the thread's own */
    uint64_t spawned_ns[SPAWNS];
    uint64_t cpu_base_ns;
    uint64_t next_slot_ns; /* where the next interval begins at the earliest */
    uint32_t ticks;
    uint64_t random;
    struct workspace *workspace;
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

/* Pairs with park(): there the state is stored before `armed`, `look` and `stop` are loaded, here they were
 * stored before the state is loaded, all sequentially consistent; so one of the two sees the other. */
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
    return atomic_load(&slots.armed) != 0 || atomic_load(&sampler.look) != 0 ||
           atomic_load(&sampler.stop) != 0;
}

static void park(void)
{
    static const struct timespec nap = {.tv_nsec = NAP_MS * 1000000L};
    atomic_store(&sampler.state, STATE_PARKED);
    if (has_work())
        sampler_wake(clock_monotonic_ns());
    for (uint32_t state; (state = atomic_load(&sampler.state)) != STATE_RUNNING;)
        if (!futex_wait(&sampler.state, state, atomic_load(&sampler.watch) != 0 ? &nap : NULL))
            sampler_wake(clock_monotonic_ns()); /* not if it is held */
    atomic_store(&sampler.rest, 0);
}

bool sampler_hold(void)
{
    uint32_t parked = STATE_PARKED;
    if (atomic_load(&slots.armed) == 0 && atomic_compare_exchange_strong(&sampler.state, &parked, STATE_HELD))
        return true;
    atomic_store(&sampler.rest, 1);
    return false;
}

void sampler_release(void)
{
    atomic_store(&sampler.state, STATE_PARKED);
    futex_wake(&sampler.state); /* it waits on HELD, if it saw that */
    if (has_work())
        sampler_wake(clock_monotonic_ns());
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

/* Find the aggregator's files, or start one and wait for them. Nothing is profiled meanwhile. */
static void look_for_aggregator(void)
{
    const struct worker_settings *settings = &worker.settings;
    atomic_store(&sampler.look, 0);
    uint64_t start = clock_monotonic_ns();
    int rc = limits_refresh();
    if (rc == 0 && limits_alive(start))
        return;
    if (settings->aggregator[0] != '\0' && !spawn_is_served(settings->directory) && may_spawn(start)) {
        rc = spawn_aggregator(settings->aggregator, settings->directory);
        if (rc != 0) {
            notice_defer(NOTICE_NO_AGGREGATOR, "nothing is profiled, the application runs on: %s",
                         fault_text());
            return;
        }
    }
    for (uint64_t now = start, pause = 5 * 1000 * 1000; now - start < AGGREGATOR_WAIT_MS * UINT64_C(1000000);
         now = clock_monotonic_ns()) {
        if (atomic_load(&sampler.stop) != 0 || (limits_refresh() == 0 && limits_alive(now)))
            return;
        sleep_until(now + pause);
        pause = pause < 100 * 1000 * 1000 ? 2 * pause : pause;
    }
    notice_defer(NOTICE_NO_AGGREGATOR,
                 "nothing is profiled, the application runs on: no aggregator serves %s",
                 settings->directory);
}

/* ---- sampling ------------------------------------------------------------------------------------------ */

/* What a thread that does not hold the GIL is doing. `cpu_ns` is its clock as read a moment ago. */
static uint32_t state_without_gil(const struct reader_thread *thread, uint64_t cpu_ns, bool gil_is_held)
{
    if (clock_read_ns(clock_of_thread(thread->tid)) != cpu_ns)
        return STATE_NATIVE; /* its clock is running */
    switch (reader_waits_for_gil(thread)) {
    case 1:
        return STATE_GIL_WAIT;
    case 2:
        return STATE_NATIVE; /* ready, without a core */
    case 0:
        return STATE_BLOCKED;
    default:
        /* A waiter for the GIL wakes every switch interval and so its clock creeps; a sleeper's stands still.
         * We are here only because it moved. */
        return gil_is_held ? STATE_GIL_WAIT : STATE_BLOCKED;
    }
}

static void put_sample(struct view *view, uint64_t serial, uint64_t now, uint64_t interval_ns,
                       uint64_t cpu_ns, uint32_t flags)
{
    struct worker_page *page = worker.segment.worker;
    struct record_sample record = {
        .header = {.size = sizeof record, .kind = RECORD_SAMPLE, .flags = (uint16_t)flags},
        .time_ns = now,
        .action_serial = serial,
        .stack = view->stack,
        .state = view->state,
        .wall_ns = interval_ns,
        .cpu_ns = cpu_ns < interval_ns ? cpu_ns : interval_ns,
    };
    if (lane_put(&worker.segment.lanes[LANE_SAMPLER], &record))
        counter_add(&page->samples, 1);
}

/*
 * One sample of one thread. `begin_ns`, `begin_cpu_ns` are those of its outermost profiled action (0 outside
 * any): CPU is measured from the later of that and the previous sample. False if the thread has gone.
 */
static bool sample_thread(struct workspace *w, struct view *view, const struct reader_thread *thread,
                          uint64_t serial, uint64_t begin_ns, uint64_t begin_cpu_ns,
                          const struct rates *rates)
{
    struct worker_page *page = worker.segment.worker;
    uint64_t now = clock_monotonic_ns();
    if (view->tid != thread->tid || view->tstate_id != thread->tstate_id) {
        view->tid = thread->tid;
        view->tstate_id = thread->tstate_id;
        view->valid = false;
        view->sampled_ns = 0;
        view->prediction.chunks = view->prediction.frames = 0;
        view->memory.count = 0;
    }
    uint64_t cpu = clock_read_ns(clock_of_thread(thread->tid));
    if (cpu == 0)
        return syscall(SYS_tgkill, getpid(), thread->tid, 0) == 0 || errno != ESRCH;

    bool first = view->sampled_ns <= begin_ns;
    uint64_t since_ns = first ? begin_ns : view->sampled_ns;
    uint64_t since_cpu = first ? begin_cpu_ns : view->sampled_cpu_ns;
    uint64_t cpu_share = 0;
    if (since_ns != 0 && now > since_ns && cpu > since_cpu)
        cpu_share =
            (uint64_t)((double)rates->interval_ns * (double)(cpu - since_cpu) / (double)(now - since_ns));

    if (view->valid && cpu == view->sampled_cpu_ns) {
        /* It ran nothing since before its last stack was read, so that stack is exact. */
        view->sampled_ns = now;
        put_sample(view, serial, now, rates->interval_ns, 0, view->flags | SAMPLE_REPEAT);
        return true;
    }
    view->sampled_ns = now;
    view->sampled_cpu_ns = cpu;

    struct reader_facts facts = {0};
    bool read = reader_read(&w->copy, thread, &view->prediction, &w->stack, &facts);
    counter_add(&page->retries, w->stack.retries);
    view->valid = read;
    view->stack = 0;
    view->flags = 0;
    if (read) {
        bool overflow = false;
        view->stack = stacks_intern(&worker.segment, &w->stack, rates->granularity, &view->memory, &overflow);
        view->flags = (w->stack.flags & STACK_TORN ? SAMPLE_TORN : 0) |
                      (w->stack.flags & STACK_TRUNCATED ? SAMPLE_TRUNCATED : 0);
        if (w->stack.flags & STACK_TORN) {
            counter_add(&page->torn, 1);
            view->valid = false;
        }
        if (overflow) {
            counter_add(&page->overflow, 1);
            atomic_store_explicit(&worker.want_fresh_segment, true, memory_order_relaxed);
        }
    } else {
        counter_add(&page->unreadable, 1);
    }
    view->state = facts.holds_gil ? STATE_CPU : state_without_gil(thread, cpu, facts.gil_is_held);
    put_sample(view, serial, now, rates->interval_ns, cpu_share, view->flags);
    return true;
}

static void sample_slots(struct workspace *w, const struct rates *rates)
{
    uint32_t top = atomic_load_explicit(&slots.top, memory_order_relaxed);
    for (uint32_t i = 0; i < top; i++) {
        struct slot_facts facts;
        uint64_t serial = slot_read(i, &facts);
        if (serial != 0 &&
            !sample_thread(w, &w->slot[i], &facts.thread, serial, facts.begin_ns, facts.begin_cpu_ns, rates))
            slot_reclaim(i, serial);
    }
}

static bool in_a_slot(int32_t tid)
{
    uint32_t top = atomic_load_explicit(&slots.top, memory_order_relaxed);
    struct slot_facts facts;
    for (uint32_t i = 0; i < top; i++)
        if (slot_read(i, &facts) != 0 && facts.thread.tid == tid)
            return true;
    return false;
}

static void sample_others(struct workspace *w, const struct rates *rates)
{
    if (sampler.ticks % LIST_EVERY == 0)
        w->listed = reader_list_threads(&w->copy, w->list, OTHERS);
    for (int i = 0; i < w->listed; i++)
        if (!in_a_slot(w->list[i].tid))
            sample_thread(w, &w->other[i], &w->list[i], 0, 0, 0, rates);
}

static void publish(void)
{
    struct worker_page *page = worker.segment.worker;
    atomic_store_explicit(&page->sampler_cpu_ns, clock_read_ns(CLOCK_THREAD_CPUTIME_ID) - sampler.cpu_base_ns,
                          memory_order_relaxed);
    atomic_store_explicit(&page->process_cpu_ns, clock_read_ns(CLOCK_PROCESS_CPUTIME_ID),
                          memory_order_relaxed);
    atomic_store_explicit(&page->heartbeat_ns, clock_monotonic_ns(), memory_order_relaxed);
}

static uint64_t random_below(uint64_t bound)
{
    uint64_t x = sampler.random; /* xorshift64 (Marsaglia 2003) */
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    sampler.random = x;
    return bound != 0 ? x % bound : 0;
}

/* Whether threads outside actions are to be sampled now. */
static bool samples_others(const struct rates *rates, uint64_t now)
{
    return rates->process && !rates->paused && limits_alive(now) &&
           atomic_load_explicit(&sampler.rest, memory_order_relaxed) == 0;
}

/* Tick until there is nothing to sample, or nothing to go by. */
static void run(struct workspace *w)
{
    struct rates rates;
    uint64_t generation = 0;
    bool woken = true;
    for (;;) {
        if (atomic_load_explicit(&sampler.stop, memory_order_relaxed) != 0 || reader_finalizing())
            return;
        if (atomic_load_explicit(&sampler.look, memory_order_relaxed) != 0)
            look_for_aggregator();
        if (!limits_rates(&rates, &generation) || rates.interval_ns == 0)
            return;
        bool others = samples_others(&rates, clock_monotonic_ns());
        if (atomic_load_explicit(&slots.armed, memory_order_relaxed) == 0 && !others)
            return;
        /* Time is cut into intervals with one tick each, whose weight is the interval. One that is over
         * before the next begins (parked, or held up) leaves a gap; but a wake inside an interval whose tick
         * has been spent waits for its end, or actions in quick succession would get more ticks than their
         * time stands for. */
        uint64_t now =
            woken ? atomic_load_explicit(&sampler.woken_ns, memory_order_relaxed) : clock_monotonic_ns();
        if (now > sampler.next_slot_ns + (woken ? 0 : rates.interval_ns))
            sampler.next_slot_ns = now;
        woken = false;
        sleep_until(sampler.next_slot_ns + random_below(rates.interval_ns));
        sampler.next_slot_ns += rates.interval_ns;
        counter_add(&worker.segment.worker->ticks, 1);
        sample_slots(w, &rates);
        if (others)
            sample_others(w, &rates);
        if (++sampler.ticks % PUBLISH_EVERY == 0)
            publish();
        if (sampler.ticks % SWEEP_EVERY == 0) {
            codes_sweep();
            stacks_forget_codes();
        }
    }
}

/* Where it cannot sample, what is armed does not let it park either: it must not spin. */
static bool can_sample(int copy_error)
{
    struct rates rates;
    uint64_t generation = 0;
    return copy_error == 0 && limits_rates(&rates, &generation) && rates.interval_ns != 0;
}

static void *sampler_main(void *unused)
{
    struct workspace *w = sampler.workspace;
    (void)unused;
    prctl(PR_SET_NAME, "pom-sampler", 0, 0, 0);
    /* The usual slack of 50 us would move every tick past the end of a short action, with nothing moved in at
     * its beginning, where a parked sampler has no tick under way. */
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
    atomic_store(&sampler.tid, (uint32_t)syscall(SYS_gettid));
    atomic_store(&worker.segment.worker->sampler_tid, atomic_load(&sampler.tid));
    /* A descriptor table of our own, empty: the application never sees our scratch, cannot close it by
     * mistake, and nothing that it has open stays open because of us. Where the kernel refuses there is no
     * scratch. */
    bool own_table = syscall(SYS_close_range, 0u, ~0u, CLOSE_RANGE_UNSHARE) == 0;
    w->copy.no_scratch = !own_table;
    int rc = copy_open(&w->copy);
    w->copy.own_table = own_table;
    if (rc != 0)
        notice_defer(NOTICE_NO_SAMPLER, "actions are counted, but no stack is sampled: %s", fault_text());
    atomic_store(&sampler.look, 1);
    while (atomic_load(&sampler.stop) == 0 && !reader_finalizing()) {
        if (atomic_load(&sampler.look) != 0 ||
            (atomic_load(&sampler.watch) != 0 && !limits_alive(clock_monotonic_ns())))
            look_for_aggregator();
        if (rc == 0)
            run(w);
        if (!can_sample(rc))
            sleep_until(clock_monotonic_ns() + NAP_MS * UINT64_C(1000000));
        publish();
        park();
    }
    copy_close(&w->copy);
    return NULL;
}

/* ---- life ---------------------------------------------------------------------------------------------- */

static int reserve_workspace(void)
{
    int rc = stacks_open();
    if (rc == 0)
        rc = codes_open();
    if (rc != 0 || sampler.workspace != NULL)
        return rc;
    void *memory =
        mmap(NULL, sizeof *sampler.workspace, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return fault(errno, "memory for the sampler");
    sampler.workspace = memory;
    sampler.workspace->copy.fd = -1;
    return 0;
}

int sampler_start(void)
{
    sampler.started_ns = clock_monotonic_ns();
    int rc = reserve_workspace();
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

void sampler_begin_segment(void)
{
    stacks_reset();
    struct workspace *w = sampler.workspace;
    for (int i = 0; i < SLOTS; i++)
        w->slot[i].valid = false;
    for (int i = 0; i < OTHERS; i++)
        w->other[i].valid = false;
    uint32_t tid = atomic_load(&sampler.tid);
    atomic_store(&worker.segment.worker->sampler_tid, tid);
    /* The thread's clock goes on; what it shows so far belongs to the former segment. */
    sampler.cpu_base_ns = clock_read_ns(clock_of_thread((int32_t)tid));
}

void sampler_after_fork(void)
{
    struct workspace *w = sampler.workspace;
    if (w != NULL) {
        copy_forget(&w->copy);
        codes_after_fork();
        stacks_reset();
        /* Ids, clocks and addresses of the parent's threads mean nothing here. */
        madvise(w, sizeof *w, MADV_DONTNEED);
        w->copy.fd = -1;
    }
    atomic_store(&sampler.state, STATE_NONE);
    atomic_store(&sampler.look, 0);
    atomic_store(&sampler.stop, 0);
    atomic_store(&sampler.rest, 0);
    sampler.looked_ns = 0;
    memset(sampler.spawned_ns, 0, sizeof sampler.spawned_ns);
    sampler.ticks = 0;
    sampler.next_slot_ns = 0;
}
