/* Begin and end of actions: see action.h. */
#include "runtime/action.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/limits.h"
#include "runtime/notice.h"
#include "runtime/sampler.h"
#include "runtime/types.h"
#include "runtime/worker.h"
#include "shm/testpoint.h"

struct slots slots;

static uint64_t next_serial;
static __thread int32_t own_tid;

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

static int find_free_slot(void)
{
    for (int i = 0; i < SLOTS; i++)
        if (atomic_load_explicit(&slots.serial[i], memory_order_relaxed) == 0)
            return i;
    return NO_SLOT;
}

static void fill_slot(int i, const struct action *action)
{
    struct slot *slot = &slots.slot[i];
    struct slot_facts facts = {.begin_ns = action->begin_ns, .begin_cpu_ns = action->begin_cpu_ns};
    uint64_t words[sizeof facts / 8];
    reader_note_thread(&facts.thread);
    facts.thread.tid = action->tid; /* after a bare clone() the reader remembers the parent's */
    memcpy(words, &facts, sizeof facts);
    slot->owner = action->serial;
    atomic_thread_fence(memory_order_release); /* who reads the new facts sees that `serial` was 0 before */
    for (size_t k = 0; k < sizeof facts / 8; k++)
        atomic_store_explicit(&slot->facts[k], words[k], memory_order_relaxed);
    if ((uint32_t)i >= atomic_load_explicit(&slots.top, memory_order_relaxed))
        atomic_store_explicit(&slots.top, (uint32_t)i + 1, memory_order_relaxed);
    atomic_store_explicit(&slots.serial[i], action->serial, memory_order_release);
    atomic_fetch_add_explicit(&slots.armed, 1, memory_order_seq_cst);
    sampler_wake(action->begin_ns);
}

uint64_t slot_read(uint32_t i, struct slot_facts *facts)
{
    const struct slot *slot = &slots.slot[i];
    uint64_t words[sizeof *facts / 8];
    uint64_t serial = atomic_load_explicit(&slots.serial[i], memory_order_acquire);
    if (serial == 0)
        return 0;
    for (size_t k = 0; k < sizeof *facts / 8; k++)
        words[k] = atomic_load_explicit(&slot->facts[k], memory_order_relaxed);
    atomic_thread_fence(memory_order_acquire);
    if (atomic_load_explicit(&slots.serial[i], memory_order_relaxed) != serial)
        return 0;
    memcpy(facts, words, sizeof *facts);
    return serial;
}

/* True if the slot showed the action `from` and now shows `to`. */
static bool change_slot(int i, uint64_t from, uint64_t to)
{
    return atomic_compare_exchange_strong_explicit(&slots.serial[i], &from, to, memory_order_acq_rel,
                                                   memory_order_relaxed);
}

/* Where the parent's thread is ours, share its slot; else take one. */
static bool arm(struct action *action, const struct action *parent)
{
    if (parent != NULL && parent->slot != NO_SLOT && parent->tid == action->tid &&
        change_slot(parent->slot, parent->serial, action->serial)) {
        action->slot = parent->slot;
        action->owns_slot = false;
        return true;
    }
    action->slot = (int16_t)find_free_slot();
    action->owns_slot = true;
    if (action->slot == NO_SLOT)
        return false;
    fill_slot(action->slot, action);
    return true;
}

/* After many threads at once: the sampler shall not go through all those slots for ever. */
static void lower_top(void)
{
    uint32_t top = atomic_load_explicit(&slots.top, memory_order_relaxed), used = top;
    while (used > 0 && atomic_load_explicit(&slots.serial[used - 1], memory_order_relaxed) == 0)
        used--;
    if (used != top)
        atomic_store_explicit(&slots.top, used, memory_order_relaxed);
}

static void disarm(struct action *action, const struct action *outer)
{
    if (action->slot == NO_SLOT)
        return;
    struct slot *slot = &slots.slot[action->slot];
    if (action->owns_slot) {
        /* Also when an inner action was left open. If it was reclaimed it may be another's by now. */
        if (slot->owner == action->serial) {
            slot->owner = 0;
            if (atomic_exchange_explicit(&slots.serial[action->slot], 0, memory_order_acq_rel) != 0)
                atomic_fetch_sub_explicit(&slots.armed, 1, memory_order_seq_cst);
            lower_top();
        }
    } else {
        bool shared = outer != NULL && outer->slot == action->slot && outer->serial != 0;
        change_slot(action->slot, action->serial, shared ? outer->serial : action->parent_serial);
    }
    action->slot = NO_SLOT;
}

void slot_reclaim(uint32_t i, uint64_t serial)
{
    if (change_slot((int)i, serial, 0))
        atomic_fetch_sub_explicit(&slots.armed, 1, memory_order_seq_cst);
}

/* The rare part: an admitted action tells its begin. Returns DENIALS, or why it could not. */
static enum denial begin_profiled(struct action *action, uint32_t row, const struct action *parent)
{
    struct rates rates;
    uint64_t generation = 0;
    if (!limits_rates(&rates, &generation)) {
        counter_add(&worker.segment.worker->denied[DENIED_NO_RATES], parent == NULL);
        return DENIED_NO_RATES;
    }
    action->serial = ++next_serial;
    action->parent_serial = parent != NULL ? parent->serial : 0;
    action->begin_cpu_ns = clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
    action->has_delay = read_run_delay(&action->begin_delay_ns);
    struct record_begin record = {
        .header = {.size = sizeof record, .kind = RECORD_BEGIN},
        .time_ns = action->begin_ns,
        .action_serial = action->serial,
        .parent_serial = action->parent_serial,
        .thread = (uint64_t)pthread_self(),
        .type = row,
        .probability = action->probability,
        .interval_us = (uint32_t)(rates.interval_ns / 1000),
        .granularity = rates.granularity,
    };
    memcpy(record.task_uuid, action->task_uuid, 16);
    if (!lane_put(&worker.segment.lanes[LANE_ACTION], &record)) {
        action->serial = 0;
        counter_add(&worker.segment.worker->denied[DENIED_LANE_FULL], 1);
        return DENIED_LANE_FULL;
    }
    TESTPOINT("action-begun"); /* The aggregator sees an action that will never end. */
    if (!arm(action, parent) && parent == NULL)
        counter_add(&worker.segment.worker->denied[DENIED_NO_SLOT], 1); /* profiled, but never sampled */
    return DENIALS;
}

/* Whether a root is admitted (DENIALS); counts why not. */
static enum denial admit(struct action *action, uint32_t hash)
{
    bool room = !atomic_load_explicit(&worker.want_fresh_segment, memory_order_relaxed) ||
                worker_renew_segment(action->begin_ns);
    struct worker_page *page = worker.segment.worker;
    uint32_t stratum = types_stratum(hash);
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
    enum denial denial =
        limits_admit(stratum, action->begin_ns, (uint32_t)(worker_random() >> 32), &action->probability);
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
    action->slot = NO_SLOT;
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
    action->probability = UINT32_MAX;
    if (parent != NULL)
        memcpy(action->task_uuid, parent->task_uuid, 16);
    else if (task_uuid != NULL)
        memcpy(action->task_uuid, task_uuid, 16);
    else
        action_make_uuid(action->task_uuid);

    if (parent != NULL) {
        action->denial = parent->denial;
        action->probability = parent->probability;
    } else {
        action->denial = (uint8_t)admit(action, action->path_hash);
    }
    if (action->denial != DENIALS)
        return;
    uint64_t start = clock_monotonic_ns();
    uint32_t row = settled ? types_row(&worker.segment, name, length) : 0;
    action->denial = (uint8_t)begin_profiled(action, row, parent);
    if (action->denial == DENIALS && action->is_root)
        counter_add(&worker.segment.worker->admitted, 1);
    meter_exact(&worker.meter, clock_monotonic_ns() - start);
}

bool action_is_live(const struct action *action)
{
    return action->open && worker_is_attached() && action->generation == worker.generation;
}

/* The rare part: a profiled action tells its end. */
static void end_profiled(struct action *action, uint32_t row, uint64_t now, bool error,
                         const struct action *outer)
{
    uint64_t start = clock_monotonic_ns();
    disarm(action, outer);
    struct record_end record = {
        .header = {.size = sizeof record, .kind = RECORD_END, .flags = error ? END_ERROR : 0},
        .time_ns = now,
        .action_serial = action->serial,
        .latency_ns = now - action->begin_ns,
        .type = row,
    };
    if (thread_id() == action->tid) {
        uint64_t delay_ns;
        uint64_t cpu = clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
        record.cpu_ns = cpu > action->begin_cpu_ns ? cpu - action->begin_cpu_ns : 0;
        if (action->has_delay && read_run_delay(&delay_ns) && delay_ns >= action->begin_delay_ns) {
            record.run_delay_ns = delay_ns - action->begin_delay_ns;
            record.header.flags |= END_HAS_RUN_DELAY;
            counter_add(&slots.ran_ns, record.cpu_ns);
            counter_add(&slots.delayed_ns, record.run_delay_ns);
        }
    }
    lane_put(&worker.segment.lanes[LANE_ACTION], &record);
    TESTPOINT("action-ended"); /* The aggregator sees it all, and closes it when it has read the samples. */
    meter_exact(&worker.meter, clock_monotonic_ns() - start);
}

bool action_end(struct action *action, const char *name, size_t length, bool error,
                const struct action *outer)
{
    if (!action_is_live(action)) {
        action->open = false;
        return false;
    }
    action->open = false;
    uint64_t now = clock_monotonic_ns();
    uint64_t latency = now - action->begin_ns;
    uint32_t row = types_row(&worker.segment, name, length);
    if (action->is_root)
        types_learn(action->path_hash, name, length);
    counters_add(worker.segment.counters, row, latency, error, (enum denial)action->denial);
    TESTPOINT(
        "action-counted"); /* The aggregator counts it; if it was profiled, what it did is never settled. */
    if (action->serial != 0)
        end_profiled(action, row, now, error, outer);
    if (action->serial != 0 || worker.meter.hooks - worker.meter.published_hooks >= METER_EVERY)
        worker_publish_meter();
    return action->serial != 0 && action->is_root;
}

size_t action_text_most(void)
{
    if (!worker_is_attached())
        return 0;
    return lane_longest_record(worker.segment.lanes[LANE_ACTION].size) - sizeof(struct record_message);
}

void action_tell(const struct action *action, const char *text, size_t length, unsigned flags, uint32_t depth)
{
    if (action->serial == 0 || !action_is_live(action))
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
    memset(&slots, 0, sizeof slots);
    next_serial = 0;
    own_tid = 0;
}
