/* One tick: see sample.h. */
#include "runtime/sample.h"

#include <errno.h>
#include <linux/close_range.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/action.h"
#include "runtime/draw.h"
#include "runtime/kernel_wait.h"
#include "runtime/owner.h"
#include "runtime/place.h"
#include "runtime/stacks.h"
#include "runtime/tick_path.h"
#include "runtime/waits.h"
#include "runtime/worker.h"
#include "shm/fault.h"

enum {
    VIEWS = 2048, /* threads that are remembered */
    VIEW_WAYS = 4,
    OTHERS = 1024,     /* threads outside actions that are known */
    LIST_EVERY = 10,   /* ticks between two looks at the list of threads, at least; and as many as it takes */
    LISTED_A_TICK = 8, /*   for a tick to have read no more threads than this on the average */
    SWEEP_EVERY = 512, /* ticks between two sweeps of the code table */
};

/* A waiter for the GIL wakes once in a switch interval, 5 ms if nobody changed it. */
#define STILL_NS (7500 * UINT64_C(1000))
#define CORE_SHARE_NS (2 * NS_PER_SECOND) /* of running, are remembered at most */

/* What is remembered of a thread between its samples, in one cache line; the rest is in struct past. */
struct view {
    int32_t tid;      /* 0: nobody's */
    uint16_t segment; /* number of the segment in which `stack` is defined */
    bool valid;       /* stack and state are those of the last sample */
    bool guessed;     /* that it waits for the GIL was concluded from its clock */
    uint64_t tstate_id;
    uint64_t sampled_ns;  /* when it was sampled last; 0: never */
    uint64_t read_ns;     /* when its stack was read last, and its CPU clock right before, */
    uint64_t read_cpu_ns; /*   which was the same at each sample since */
    uint64_t serial;      /* of the action that it was in then; 0: none */
    uint32_t stack;       /* not for a thread outside actions where those are not sampled */
    uint16_t state;
    uint16_t flags;
};
_Static_assert(sizeof(struct view) <= 64, "a cache line");

/* What helps to read the next stack of a thread; what is used of it mostly lies in its first page. */
struct past {
    _Alignas(4096) struct reader_prediction prediction;
    struct stack_memory memory;
};

/* A thread that is looked at in this tick. */
struct subject {
    uint64_t version; /* of its slot, 0: it has none */
    uint64_t now_ns, cpu_ns;
    struct view *view;
    uint32_t index; /* of its slot, or in the list of all threads */
};

/* Whose a sample is, and what follows from that. */
struct part {
    uint64_t serial;   /* 0: nobody's */
    uint64_t begin_ns; /* when the action came to the thread: no earlier interval is its */
    bool alone;        /* nothing else has run on the thread since */
};

/* What a tick uses whenever there is one thread lies in the first page and in that thread's own. */
static struct workspace {
    struct copy copy;
    uint32_t ticks, list_at;
    uint32_t listed;
    uint16_t segment;
    bool outside;                /* of this tick: threads are sampled outside actions as well */
    uint64_t interval_ns, spans; /* of this tick: it stands for so many intervals */
    uint64_t ran_ns, delayed_ns; /* what counts of core_share begins there */
    struct owner owner;          /* of the stack that is being read, if … */
    bool owner_known;
    const struct slot_facts
        *hint; /* what the slot of the thread says that is being read; NULL: it has none */
    uint32_t hinted_slot;
    uint64_t hint_version;
    struct subject unread[SAMPLE_LOOKS];
    struct stack stack;
    uint64_t inside[32]; /* which slots' threads are inside actions, by the lowest bits of their ids */
    struct reader_thread list[OTHERS];
    struct view view[VIEWS];
    struct past past[VIEWS];
} * work;

/* Another number for another draw of the same tick. */
static uint64_t scramble(uint64_t random)
{
    random = (random ^ random >> 32) * UINT64_C(0x9E3779B97F4A7C15);
    return random ^ random >> 29;
}

TICK_PATH static struct view *find_view(const struct reader_thread *thread)
{
    struct view *set = &work->view[(uint32_t)thread->tid % (VIEWS / VIEW_WAYS) * VIEW_WAYS], *oldest = set;
    for (int i = 0; i < VIEW_WAYS; i++) {
        if (set[i].tid == thread->tid && set[i].tstate_id == thread->tstate_id)
            return &set[i];
        if (set[i].sampled_ns < oldest->sampled_ns)
            oldest = &set[i];
    }
    struct past *past = &work->past[oldest - work->view];
    *oldest = (struct view){.tid = thread->tid, .tstate_id = thread->tstate_id};
    past->prediction.chunks = past->prediction.frames = 0;
    past->memory.count = 0;
    return oldest;
}

/* ---- one thread ---------------------------------------------------------------------------------------- */

/* What a thread that does not hold the GIL is doing. */
TICK_PATH static uint32_t state_without_gil(const struct subject *subject, const struct reader_thread *thread,
                                            bool gil_is_held)
{
    subject->view->guessed = false;
    if (clock_read_ns(clock_of_thread(thread->tid)) != subject->cpu_ns)
        return STATE_NATIVE; /* its clock is running */
    uintptr_t word;
    switch (kernel_wait_of(thread->tid, &word)) {
    case KERNEL_WAIT_FUTEX:
        return reader_gil_has(word) ? STATE_GIL_WAIT : STATE_BLOCKED;
    case KERNEL_WAIT_NONE:
        return STATE_NATIVE; /* ready, without a core */
    case KERNEL_WAIT_OTHER:
        return STATE_BLOCKED;
    default:
        /* A waiter for the GIL wakes every switch interval and so its clock creeps; a sleeper's stands still.
         * We are here only because it moved; if it does so no more, it was a sleeper: see repeat. */
        subject->view->guessed = gil_is_held;
        return gil_is_held ? STATE_GIL_WAIT : STATE_BLOCKED;
    }
}

TICK_PATH static void put_sample(const struct subject *subject, uint64_t serial, uint64_t wall_ns,
                                 uint64_t cpu_ns, uint32_t flags)
{
    struct record_sample record = {
        .header = {.size = sizeof record, .kind = RECORD_SAMPLE, .flags = (uint16_t)flags},
        .time_ns = subject->now_ns,
        .action_serial = serial,
        .stack = subject->view->stack,
        .state = subject->view->state,
        .wall_ns = wall_ns,
        .cpu_ns = cpu_ns < wall_ns ? cpu_ns : wall_ns,
    };
    waits_note_sample(serial);
    if (lane_put(&worker.segment.lanes[LANE_SAMPLER], &record))
        counter_add(&worker.segment.worker->samples, 1);
}

/*
 * How many intervals a sample stands for: more than one where there was no core in time for the ticks before,
 * but none that was over before the action began.
 */
static uint64_t spans_of(const struct subject *subject, uint64_t begin_ns)
{
    uint64_t lived = subject->now_ns > begin_ns ? (subject->now_ns - begin_ns) / work->interval_ns : 0;
    return work->spans <= lived ? work->spans : 1 + lived;
}

/* It ran nothing since before its last stack was read, so that stack is exact, and so is what it did then. */
TICK_PATH static void repeat(const struct subject *subject, const struct slot_facts *facts, uint64_t wall_ns)
{
    struct view *view = subject->view;
    uint64_t serial = view->serial;
    if (serial != 0 && facts != NULL && !facts->shared)
        serial = facts->serial; /* another thread may have ended the action for it */
    if (view->guessed && subject->now_ns - view->read_ns > STILL_NS) {
        view->state = STATE_BLOCKED;
        view->guessed = false;
    }
    view->sampled_ns = subject->now_ns;
    if (serial != 0 || work->outside)
        put_sample(subject, serial, wall_ns * spans_of(subject, facts != NULL ? facts->begin_ns : 0), 0,
                   view->flags | SAMPLE_REPEAT);
}

enum look { LOOK_REPEATED, LOOK_UNREAD, LOOK_GONE };

/* Look at a thread, which has a slot that says `facts`, or none (NULL); where its last sample holds, that is
 * put again. */
TICK_PATH static enum look look_at(struct subject *subject, const struct reader_thread *thread,
                                   const struct slot_facts *facts, uint64_t wall_ns)
{
    subject->now_ns = clock_monotonic_ns();
    subject->cpu_ns = clock_read_ns(clock_of_thread(thread->tid));
    if (subject->cpu_ns == 0)
        return syscall(SYS_tgkill, getpid(), thread->tid, 0) == 0 || errno != ESRCH ? LOOK_REPEATED
                                                                                    : LOOK_GONE;
    struct view *view = subject->view = find_view(thread);
    bool told = view->stack != 0 || (view->serial == 0 && !work->outside);
    if (!view->valid || !told || view->segment != work->segment || subject->cpu_ns != view->read_cpu_ns)
        return LOOK_UNREAD;
    repeat(subject, facts, wall_ns);
    return LOOK_REPEATED;
}

/* Of the time in which threads of this process could run, the part in which they had a core, of late. */
static double core_share(void)
{
    uint64_t ran = atomic_load_explicit(&thread_times.ran_ns, memory_order_relaxed) - work->ran_ns;
    uint64_t delayed =
        atomic_load_explicit(&thread_times.delayed_ns, memory_order_relaxed) - work->delayed_ns;
    if (ran + delayed > CORE_SHARE_NS) {
        work->ran_ns += ran / 2;
        work->delayed_ns += delayed / 2;
    }
    return ((double)ran + 1e6) / ((double)(ran + delayed) + 1e6);
}

/*
 * The CPU time that a sample stands for: the thread's share of CPU since its previous sample. The first one
 * in an action has none before it, and what the thread did before it in the action must not stand for the
 * rest: short actions that compute first and wait then would have nearly twice their CPU time. There what it
 * does now decides; and so it does where others took turns with the action on the thread.
 */
TICK_PATH static uint64_t cpu_share(const struct subject *subject, const struct part *part, uint64_t since_ns,
                                    uint64_t since_cpu_ns, uint64_t wall_ns)
{
    const uint32_t state = subject->view->state;
    if (!part->alone || since_ns < part->begin_ns)
        return state == STATE_CPU || state == STATE_NATIVE ? (uint64_t)((double)wall_ns * core_share()) : 0;
    if (since_ns == 0 || subject->now_ns <= since_ns || subject->cpu_ns <= since_cpu_ns)
        return 0;
    return (uint64_t)((double)wall_ns * (double)(subject->cpu_ns - since_cpu_ns) /
                      (double)(subject->now_ns - since_ns));
}

enum {
    NOTED_KNOWN, /* whether it is known whose the gather is */
    NOTED_SERIAL,
    NOTED_BEGIN_NS,
};

/*
 * Of a gather: whose is it? At once, as a task that ends takes its context with it. On a thread on which
 * nothing takes turns the slot's hint is as good as a look at the context, and costs nothing: the context is
 * the thread's own, which lives as long as the thread, and all that changes our variable in it is our hooks.
 * Where one has run since the hint was read, and left no action, the gather was right before.
 */
TICK_PATH static void note_owner(struct copy *copy, const struct reader_thread *thread,
                                 struct reader_facts *facts)
{
    const struct slot_facts *hint = work->hint;
    struct owner owner = {0};
    if (!facts->in_context)
        return;
    const bool hinted = hint != NULL && hint->serial != 0 && hint->context == facts->context;
    const bool stale = hinted && slot_version(work->hinted_slot) != work->hint_version;
    if (hinted && !hint->shared && !stale) {
        owner.serial = hint->serial;
        facts->noted[NOTED_KNOWN] = true;
    } else {
        facts->noted[NOTED_KNOWN] = owner_find(copy, thread->interpreter, facts->context, &owner);
    }
    if (stale && owner.serial == 0) {
        owner = (struct owner){.serial = hint->serial, .begin_ns = hint->begin_ns};
        facts->noted[NOTED_KNOWN] = true;
    }
    facts->noted[NOTED_SERIAL] = owner.serial;
    facts->noted[NOTED_BEGIN_NS] = owner.begin_ns;
}

/*
 * Whose the stack is that was just read. `facts` is what the thread's slot said before, NULL if it has none.
 * False: that is not known.
 */
TICK_PATH static bool find_part(const struct slot_facts *facts, const struct reader_facts *read,
                                struct part *part)
{
    *part = (struct part){.serial = read->noted[NOTED_SERIAL], .begin_ns = read->noted[NOTED_BEGIN_NS]};
    if (facts == NULL || facts->shared) {
        part->alone = part->serial == 0;
        return read->noted[NOTED_KNOWN] != 0;
    }
    part->alone = true;
    part->begin_ns = facts->begin_ns;
    if (read->noted[NOTED_KNOWN] == 0)
        part->serial = facts->serial;
    return read->noted[NOTED_KNOWN] != 0 || facts->serial != 0;
}

/* The state that goes with the stack that was just read. */
static void find_state(const struct subject *subject, const struct reader_thread *thread,
                       const struct reader_facts *read)
{
    struct view *view = subject->view;
    if (read->holds_gil) {
        view->state = STATE_CPU;
        view->guessed = false;
    } else {
        view->state = (uint16_t)state_without_gil(subject, thread, read->gil_is_held);
    }
}

TICK_PATH static void name_stack(struct view *view, struct past *past, const struct stack *stack,
                                 const struct rates *rates)
{
    struct worker_page *page = worker.segment.worker;
    bool overflow = false;
    view->stack = stacks_intern(&worker.segment, stack, rates->granularity, &past->memory, &overflow);
    if (stack->flags & STACK_TRUNCATED)
        view->flags |= SAMPLE_TRUNCATED;
    if (stack->flags & STACK_TORN) {
        view->flags |= SAMPLE_TORN;
        counter_add(&page->torn, 1);
    }
    if (overflow) {
        counter_add(&page->overflow, 1);
        atomic_store_explicit(&worker.want_fresh_segment, true, memory_order_relaxed);
    }
}

TICK_PATH static void read_stack(const struct subject *subject, const struct reader_thread *thread,
                                 const struct slot_facts *facts, const struct rates *rates, uint64_t wall_ns)
{
    struct worker_page *page = worker.segment.worker;
    struct view *view = subject->view;
    struct past *past = &work->past[view - work->view];
    const uint64_t before_ns = view->sampled_ns, before_cpu_ns = view->read_cpu_ns;
    view->sampled_ns = view->read_ns = subject->now_ns;
    view->read_cpu_ns = subject->cpu_ns;
    view->segment = work->segment;
    view->stack = view->flags = 0;

    struct part part;
    struct reader_facts read = {0};
    struct stack *stack = &work->stack;
    work->hint = facts;
    work->hinted_slot = subject->index;
    work->hint_version = subject->version;
    const bool readable = reader_read(&work->copy, thread, &past->prediction, stack, &read);
    if (stack->retries != 0)
        counter_add(&page->retries, stack->retries);
    if (readable)
        place_note_stack((stack->flags & STACK_TORN) != 0, subject->now_ns);
    if (facts != NULL && read.holds_gil)
        place_follow(&work->copy, facts->place, work->interval_ns, subject->now_ns);
    const bool known = find_part(facts, &read, &part);
    view->serial = part.serial;
    view->valid = readable && known && !(stack->flags & STACK_TORN);
    if (!known)
        counter_add(&page->unattributed, 1);
    if (!known || (part.serial == 0 && !work->outside))
        return;
    if (readable)
        name_stack(view, past, stack, rates);
    else
        counter_add(&page->unreadable, 1);
    find_state(subject, thread, &read);
    wall_ns *= spans_of(subject, part.begin_ns);
    put_sample(subject, part.serial, wall_ns, cpu_share(subject, &part, before_ns, before_cpu_ns, wall_ns),
               view->flags);
}

/* Read the stacks of the first `unread` subjects, or of some of them. */
TICK_PATH static void read_stacks(uint32_t unread, const struct rates *rates, uint64_t wall_ns,
                                  uint64_t random)
{
    struct draw draw = draw_begin(unread, SAMPLE_READS, random);
    wall_ns = draw_weight(unread, SAMPLE_READS, wall_ns);
    for (uint32_t i; draw_next(&draw, &i);) {
        struct subject *subject = &work->unread[i];
        struct slot_facts facts;
        if (subject->version == 0) {
            read_stack(subject, &work->list[subject->index], NULL, rates, wall_ns);
            continue;
        }
        subject->version = slot_read(subject->index, &facts);
        if (subject->version != 0 && facts.thread.tid == subject->view->tid)
            read_stack(subject, &facts.thread, &facts, rates, wall_ns);
    }
}

/* ---- all threads --------------------------------------------------------------------------------------- */

TICK_PATH static void sample_slots(const struct rates *rates, uint64_t random)
{
    uint32_t top = atomic_load_explicit(&slots.top, memory_order_relaxed), threads = 0, unread = 0;
    for (uint32_t i = 0; i < top; i++)
        threads += slot_is_sampled(i);

    struct draw draw = draw_begin(threads, SAMPLE_LOOKS, random);
    uint64_t wall_ns = draw_weight(threads, SAMPLE_LOOKS, rates->interval_ns);
    uint32_t slot = 0, passed = 0;
    for (uint32_t drawn; draw_next(&draw, &drawn); slot++) {
        for (; slot < top && (!slot_is_sampled(slot) || passed++ < drawn);)
            slot++;
        if (slot == top)
            break; /* some have been given back meanwhile */
        struct subject *subject = &work->unread[unread];
        struct slot_facts facts;
        subject->index = slot;
        subject->version = slot_read(slot, &facts);
        if (subject->version == 0)
            continue;
        switch (look_at(subject, &facts.thread, &facts, wall_ns)) {
        case LOOK_GONE:
            slot_reclaim(slot, subject->version);
            break;
        case LOOK_UNREAD:
            unread++;
            break;
        default:
            break;
        }
    }
    read_stacks(unread, rates, wall_ns, scramble(random));
}

static void note_inside(void)
{
    uint32_t top = atomic_load_explicit(&slots.top, memory_order_relaxed);
    struct slot_facts facts;
    memset(work->inside, 0, sizeof work->inside);
    for (uint32_t i = 0; i < top; i++)
        if (slot_read(i, &facts) != 0)
            work->inside[(uint32_t)facts.thread.tid / 64 % 32] |= UINT64_C(1)
                                                                  << (uint32_t)facts.thread.tid % 64;
}

static bool is_inside(int32_t tid)
{
    if ((work->inside[(uint32_t)tid / 64 % 32] >> (uint32_t)tid % 64 & 1) == 0)
        return false;
    uint32_t top = atomic_load_explicit(&slots.top, memory_order_relaxed);
    struct slot_facts facts;
    for (uint32_t i = 0; i < top; i++)
        if (slot_read(i, &facts) != 0 && facts.thread.tid == tid)
            return true;
    return false;
}

static void sample_others(const struct rates *rates, uint64_t random)
{
    if (work->ticks - work->list_at >= LIST_EVERY &&
        work->ticks - work->list_at >= work->listed / LISTED_A_TICK) {
        work->listed = (uint32_t)reader_list_threads(&work->copy, work->list, OTHERS);
        work->list_at = work->ticks;
    }
    uint32_t unread = 0;
    struct draw draw = draw_begin(work->listed, SAMPLE_LOOKS, random);
    uint64_t wall_ns = draw_weight(work->listed, SAMPLE_LOOKS, rates->interval_ns);
    note_inside();
    for (uint32_t i; draw_next(&draw, &i);) {
        struct subject *subject = &work->unread[unread];
        if (is_inside(work->list[i].tid))
            continue;
        subject->version = 0;
        subject->index = i;
        if (look_at(subject, &work->list[i], NULL, wall_ns) == LOOK_UNREAD)
            unread++;
    }
    read_stacks(unread, rates, wall_ns, scramble(random));
}

TICK_PATH void sample_tick(const struct rates *rates, bool others, uint64_t spans, uint64_t random)
{
    work->interval_ns = rates->interval_ns;
    work->spans = spans;
    work->outside = others;
    counter_add(&worker.segment.worker->ticks, 1);
    work->ticks++;
    sample_slots(rates, random);
    if (others || atomic_load_explicit(&slots.carried, memory_order_relaxed) != 0)
        sample_others(rates, scramble(scramble(random)));
    waits_sample(&work->copy, rates, spans, scramble(random + 1));
    if (work->ticks % SWEEP_EVERY == 0) {
        codes_sweep();
        stacks_forget_codes();
    }
}

/* ---- life ---------------------------------------------------------------------------------------------- */

static void empty(void)
{
    work->copy.fd = -1;
    work->list_at = 0U - LIST_EVERY; /* the first tick lists */
}

int sample_open(void)
{
    int rc = stacks_open();
    if (rc == 0)
        rc = codes_open();
    if (rc != 0 || work != NULL)
        return rc;
    void *memory =
        mmap(NULL, sizeof *work, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return fault(errno, "memory for the sampler");
    work = memory;
    empty();
    return 0;
}

int sample_begin(void)
{
    /* A descriptor table of our own, empty: the application never sees our scratch, cannot close it by
     * mistake, and nothing that it has open stays open because of us. Where the kernel refuses there is no
     * scratch. */
    bool own_table = syscall(SYS_close_range, 0u, ~0u, CLOSE_RANGE_UNSHARE) == 0;
    kernel_wait_keep_open(own_table);
    reader_gathered = note_owner;
    work->copy.no_scratch = !own_table;
    int rc = copy_open(&work->copy);
    work->copy.own_table = own_table;
    return rc;
}

void sample_end(void)
{
    kernel_wait_keep_open(false);
    copy_close(&work->copy);
}

void sample_begin_segment(void)
{
    stacks_reset();
    waits_begin_segment();
    work->segment++;
}

void sample_after_fork(void)
{
    if (work == NULL)
        return;
    copy_forget(&work->copy);
    kernel_wait_after_fork();
    codes_after_fork();
    stacks_reset();
    madvise(work, sizeof *work, MADV_DONTNEED);
    empty();
}
