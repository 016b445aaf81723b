/* Begin and end of actions: see action.h. */
#include "runtime/action.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/cpython/context.h"
#include "runtime/limits.h"
#include "runtime/notice.h"
#include "runtime/sampler.h"
#include "runtime/types.h"
#include "runtime/worker.h"
#include "shm/testpoint.h"

struct thread_times thread_times;

static uint64_t next_serial;
static __thread int32_t own_tid;
static __thread uint32_t own_turn; /* roots begun and ended on this thread */
static __thread bool takes_turns;  /* one was seen to begin or end inside another: tasks or greenlets */

static int32_t thread_id(void)
{
    if (own_tid == 0)
        own_tid = (int32_t)syscall(SYS_gettid);
    return own_tid;
}

/* Second figure of /proc/thread-self/schedstat: ns spent ready to run without a core. */
static bool read_run_delay(uint64_t *ns)
{
    char text[96];
    int fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0)
        return false;
    text[n] = '\0';
    char *space = strchr(text, ' ');
    if (space == NULL)
        return false;
    *ns = strtoull(space + 1, NULL, 10);
    return true;
}

void action_make_uuid(uint8_t out[16])
{
    uint64_t halves[2] = {worker_random(), worker_random()};
    memcpy(out, halves, 16);
    out[6] = (out[6] & 0x0F) | 0x40;
    out[8] = (out[8] & 0x3F) | 0x80;
}

/* Tell of the begin. False if the lane is full. */
static bool tell_begin(struct action *action, uint32_t row, uint64_t interval_ns, uint32_t granularity,
                       unsigned flags)
{
    struct record_begin record = {
        .header = {.size = sizeof record, .kind = RECORD_BEGIN, .flags = (uint16_t)flags},
        .time_ns = action->begin_ns,
        .action_serial = action->serial,
        .parent_serial = action->parent_serial,
        .thread = (uint64_t)pthread_self(),
        .type = row,
        .probability = action->probability,
        .interval_us = (uint32_t)(interval_ns / 1000),
        .granularity = granularity,
        .late_after_us = action->late.after_us,
        .late_probability = action->late.probability,
    };
    memcpy(record.task_uuid, action->task_uuid, 16);
    return lane_put(&worker.segment.lanes[LANE_ACTION], &record);
}

/* The rare part: an admitted action tells its begin. Returns DENIALS, or why it could not. */
static enum denial begin_profiled(struct action *action, uint32_t row, const struct action *parent)
{
    uint64_t interval_ns;
    uint32_t granularity;
    if (!limits_detail(&interval_ns, &granularity)) {
        counter_add(&worker.segment.worker->denied[DENIED_NO_RATES], parent == NULL);
        return DENIED_NO_RATES;
    }
    action->serial = ++next_serial;
    action->parent_serial = parent != NULL ? parent->serial : 0;
    action->begin_cpu_ns = clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
    action->has_delay = read_run_delay(&action->begin_delay_ns);
    if (!tell_begin(action, row, interval_ns, granularity, 0)) {
        action->serial = 0;
        counter_add(&worker.segment.worker->denied[DENIED_LANE_FULL], 1);
        return DENIED_LANE_FULL;
    }
    TESTPOINT("action-begun"); /* The aggregator sees an action that will never end. */
    if (!slot_enter(&action->use, action->tid, action->begin_ns, parent != NULL ? &parent->use : NULL) &&
        parent == NULL)
        counter_add(&worker.segment.worker->denied[DENIED_NO_SLOT], 1); /* profiled, but never sampled */
    return DENIALS;
}

/*
 * A root that the lottery denied may be admitted late. One whose thread it does not have to itself may not:
 * in a task or a greenlet it is also where its thread is not. Nor where all that is not profiled is sampled
 * anyway.
 */
static void stand_by(struct action *action, uint32_t row)
{
    bool entered;
    uint64_t interval_ns, start = clock_monotonic_ns();
    uint32_t granularity;
    context_here(&entered);
    if (entered || takes_turns || worker.settings.process || !limits_detail(&interval_ns, &granularity))
        return;
    uint64_t due_ns = action->begin_ns + action->late.after_us * UINT64_C(1000);
    if (!slot_wait(&action->use, action->tid, due_ns))
        return;
    action->serial = ++next_serial;
    action->is_candidate = tell_begin(action, row, interval_ns, granularity, BEGIN_CANDIDATE);
    if (!action->is_candidate) {
        slot_leave(&action->use, action->serial, 0);
        action->serial = 0;
    }
    meter_exact(&worker.meter, clock_monotonic_ns() - start);
}

/* One inside a candidate has no story of its own: what runs in it is the candidate's, on the same thread. */
static void stand_by_inside(struct action *action, const struct action *parent)
{
    bool entered;
    context_here(&entered);
    if (entered || parent->tid != action->tid)
        return;
    action->serial = parent->serial;
    action->is_candidate = true;
}

/* Whether a root is admitted (DENIALS); counts why not. */
static enum denial admit(struct action *action, uint32_t hash, bool *candidate)
{
    bool room = !atomic_load_explicit(&worker.want_fresh_segment, memory_order_relaxed) ||
                worker_renew_segment(action->begin_ns);
    struct worker_page *page = worker.segment.worker;
    uint32_t stratum = limits_stratum(types_known(hash));
    notice_print_deferred();
    counter_add(&page->seen[stratum], 1);
    if (!room) {
        counter_add(&page->denied[DENIED_LANE_FULL], 1);
        return DENIED_LANE_FULL;
    }
    if (atomic_load_explicit(&slots.armed, memory_order_relaxed) >= SLOTS) {
        counter_add(&page->denied[DENIED_NO_SLOT], 1);
        return DENIED_NO_SLOT;
    }
    struct limits_draw draw;
    enum denial denial = limits_admit(stratum, action->begin_ns, (uint32_t)(worker_random() >> 32), &draw);
    if (denial == DENIALS || draw.candidate) {
        action->probability = draw.probability;
        action->late = draw.late;
        *candidate = draw.candidate;
    }
    if (denial != DENIALS) {
        counter_add(&page->denied[denial], 1);
        if (denial == DENIED_NO_RATES)
            sampler_look_for_aggregator(action->begin_ns);
    }
    return denial;
}

void action_begin(struct action *action, const char *name, size_t length, bool settled,
                  const struct action *parent, const uint8_t *task_uuid)
{
    uint64_t now = clock_monotonic_ns();
    bool attached = worker_is_attached();
    action->open = false;
    action->serial = 0;
    action->use = SLOT_UNUSED;
    action->wait = NO_WAIT;
    action->keeps_wait = false;
    action->in_task = false;
    action->is_candidate = false;
    action->late = (struct rates_late){0};
    if (!worker_ready(now))
        return;
    if (!attached)
        now = clock_monotonic_ns(); /* attaching is not part of the action */
    if (limits_passthrough()) {
        counter_add(&worker.segment.worker->uncounted, 1);
        return;
    }
    if (parent != NULL && !action_is_live(parent))
        parent = NULL;

    action->begin_ns = now;
    action->generation = worker.generation;
    action->open = true;
    action->is_root = parent == NULL;
    action->path_hash = hash_bytes(name, length);
    action->tid = thread_id();
    own_turn += action->is_root;
    action->turn = own_turn;
    action->probability = UINT32_MAX;
    if (parent != NULL)
        memcpy(action->task_uuid, parent->task_uuid, 16);
    else if (task_uuid != NULL)
        memcpy(action->task_uuid, task_uuid, 16);
    else
        action_make_uuid(action->task_uuid);

    bool candidate = false;
    if (parent != NULL) {
        action->denial = parent->denial;
        action->probability = parent->probability;
    } else {
        action->denial = (uint8_t)admit(action, action->path_hash, &candidate);
    }
    if (action->denial != DENIALS) {
        if (candidate)
            stand_by(action, settled ? types_row(&worker.segment, name, length) : 0);
        else if (parent != NULL && parent->is_candidate)
            stand_by_inside(action, parent);
        return;
    }
    uint64_t start = clock_monotonic_ns();
    uint32_t row = settled ? types_row(&worker.segment, name, length) : 0;
    action->denial = (uint8_t)begin_profiled(action, row, parent);
    if (action->denial == DENIALS && action->is_root)
        counter_add(&worker.segment.worker->admitted, 1);
    meter_exact(&worker.meter, clock_monotonic_ns() - start);
}

void action_is_current(struct action *action)
{
    uint64_t serial = action != NULL ? action->serial : 0;
    if (serial != 0 && action->is_candidate && action->tid != thread_id())
        serial = 0; /* carried over: on this thread nothing is sampled of it */
    if (serial != 0 && !action->in_task)
        context_here(&action->in_task);
    if ((serial != 0 || atomic_load_explicit(&slots.armed, memory_order_relaxed) != 0) &&
        !slot_hint(serial, takes_turns) && serial != 0 && !action->is_candidate)
        slots_carry(); /* a candidate without a slot was refused */
}

bool action_is_live(const struct action *action)
{
    return action->open && worker_is_attached() && action->generation == worker.generation;
}

/* The rare part: a profiled action tells its end. */
static void end_profiled(struct action *action, uint32_t row, uint64_t now, bool error, bool alone,
                         const struct action *outer)
{
    uint64_t start = clock_monotonic_ns();
    slot_leave(&action->use, action->serial, outer != NULL ? outer->serial : 0);
    struct record_end record = {
        .header = {.size = sizeof record, .kind = RECORD_END, .flags = error ? END_ERROR : 0},
        .time_ns = now,
        .action_serial = action->serial,
        .latency_ns = now - action->begin_ns,
        .type = row,
    };
    if (alone) {
        uint64_t delay_ns;
        uint64_t cpu = clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
        record.cpu_ns = cpu > action->begin_cpu_ns ? cpu - action->begin_cpu_ns : 0;
        if (action->has_delay && read_run_delay(&delay_ns) && delay_ns >= action->begin_delay_ns) {
            record.run_delay_ns = delay_ns - action->begin_delay_ns;
            record.header.flags |= END_HAS_RUN_DELAY;
            counter_add(&thread_times.ran_ns, record.cpu_ns);
            counter_add(&thread_times.delayed_ns, record.run_delay_ns);
        }
    }
    lane_put(&worker.segment.lanes[LANE_ACTION], &record);
    TESTPOINT("action-ended"); /* The aggregator sees it all, and closes it when it has read the samples. */
    meter_exact(&worker.meter, clock_monotonic_ns() - start);
}

/* A candidate's end: the aggregator is to forget it, or to take its samples for what they are. */
static void end_candidate(struct action *action, uint32_t row, uint64_t now, bool error,
                          const struct action *outer)
{
    uint64_t start = clock_monotonic_ns();
    bool late = slot_was_late(&action->use);
    slot_leave(&action->use, action->serial, outer != NULL ? outer->serial : 0);
    struct record_end record = {
        .header = {.size = sizeof record,
                   .kind = RECORD_END,
                   .flags = (uint16_t)((error ? END_ERROR : 0) | (late ? END_LATE : 0))},
        .time_ns = now,
        .action_serial = action->serial,
        .latency_ns = now - action->begin_ns,
        .type = row,
    };
    lane_put(&worker.segment.lanes[LANE_ACTION], &record);
    meter_exact(&worker.meter, clock_monotonic_ns() - start);
}

/* Whether all that its thread did since the begin was done for it, so that the thread's clocks tell of it. */
static bool had_thread_alone(const struct action *action)
{
    bool same = thread_id() == action->tid, took_turns = own_turn != action->turn;
    own_turn += action->is_root;
    if (same && took_turns && action->is_root)
        takes_turns = true;
    return same && !took_turns && !action->in_task;
}

bool action_end(struct action *action, const char *name, size_t length, bool error,
                const struct action *outer)
{
    if (!action_is_live(action)) {
        action->open = false;
        return false;
    }
    action->open = false;
    bool alone = had_thread_alone(action);
    uint64_t now = clock_monotonic_ns();
    uint64_t latency = now - action->begin_ns;
    uint32_t row = types_row(&worker.segment, name, length);
    if (action->is_root)
        types_learn(action->path_hash, name, length);
    counters_add(worker.segment.counters, row, latency, error, (enum denial)action->denial);
    TESTPOINT(
        "action-counted"); /* The aggregator counts it; if it was profiled, what it did is never settled. */
    const bool profiled = action_is_profiled(action);
    if (profiled)
        end_profiled(action, row, now, error, alone, outer);
    else if (action->is_candidate && action->is_root)
        end_candidate(action, row, now, error, outer);
    if (profiled || worker.meter.hooks - worker.meter.published_hooks >= METER_EVERY)
        worker_publish_meter();
    return profiled && action->is_root;
}

size_t action_text_most(void)
{
    if (!worker_is_attached())
        return 0;
    return lane_longest_record(worker.segment.lanes[LANE_ACTION].size) - sizeof(struct record_message);
}

void action_tell(const struct action *action, const char *text, size_t length, unsigned flags, uint32_t depth)
{
    if (!action_is_profiled(action) || !action_is_live(action))
        return;
    uint64_t start = clock_monotonic_ns();
    struct lane *lane = &worker.segment.lanes[LANE_ACTION];
    size_t size = (sizeof(struct record_message) + length + 7) & ~(size_t)7;
    char *bytes = length <= action_text_most() && lane_has_plenty(lane, size) ? calloc(1, size) : NULL;
    if (bytes == NULL) {
        lane_lose(lane, size);
        return;
    }
    struct record_message record = {
        .header = {.size = (uint32_t)size, .kind = RECORD_MESSAGE, .flags = (uint16_t)flags},
        .time_ns = start,
        .action_serial = action->serial,
        .length = (uint32_t)length,
        .depth = depth,
    };
    memcpy(bytes, &record, sizeof record);
    memcpy(bytes + sizeof record, text, length);
    lane_put(lane, bytes);
    TESTPOINT("action-told"); /* The aggregator puts it into the action's call graph. */
    free(bytes);
    meter_exact(&worker.meter, clock_monotonic_ns() - start);
}

void actions_begin_segment(struct segment *segment)
{
    types_begin_segment(segment);
}

void actions_after_fork(void)
{
    slots_after_fork();
    waits_after_fork();
    next_serial = 0;
    own_tid = 0;
}
