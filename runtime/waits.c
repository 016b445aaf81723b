/* The table of actions that may wait in a coroutine, and their samples: see waits.h. */
#include "runtime/waits.h"

#include <stdatomic.h>
#include <string.h>

#include "runtime/cpython/greenlet.h"
#include "runtime/cpython/suspended.h"
#include "runtime/draw.h"
#include "runtime/stacks.h"
#include "runtime/tick_path.h"
#include "runtime/worker.h"

enum {
    SEEN = 128, /* actions with a sample in this tick that are remembered; a power of two */
};

static struct {
    _Atomic uint32_t top; /* rows at and above it are free */
    _Atomic uint64_t serial[WAITS];
    struct {
        _Atomic uint64_t begin_ns;
        _Atomic uintptr_t reference;
        _Atomic uint32_t unit; /* enum wait_unit */
    } row[WAITS];
    /* the rest is the sampler's */
    uint64_t seen[SEEN];
    struct stack stack;
    struct stack_memory memory;
} waits;

/* Stands for the stack of a greenlet that cannot be read. */
static struct code switched_out = {.file = "(greenlet)", .name = "waits"};

/* ---- GIL holders --------------------------------------------------------------------------------------- */

static uint64_t serial_of(uint32_t row)
{
    return atomic_load_explicit(&waits.serial[row], memory_order_relaxed);
}

int wait_begin(uint64_t serial, uint64_t begin_ns, enum wait_unit unit, uintptr_t reference)
{
    uint32_t i = 0;
    while (i < WAITS && serial_of(i) != 0)
        i++;
    if (i == WAITS)
        return NO_WAIT;
    atomic_thread_fence(memory_order_release); /* who reads what follows sees that the row was free */
    atomic_store_explicit(&waits.row[i].begin_ns, begin_ns, memory_order_relaxed);
    atomic_store_explicit(&waits.row[i].reference, reference, memory_order_relaxed);
    atomic_store_explicit(&waits.row[i].unit, (uint32_t)unit, memory_order_relaxed);
    if (i >= atomic_load_explicit(&waits.top, memory_order_relaxed))
        atomic_store_explicit(&waits.top, i + 1, memory_order_relaxed);
    atomic_store_explicit(&waits.serial[i], serial, memory_order_release);
    return (int)i;
}

void wait_pass(int row, uint64_t former, uint64_t serial)
{
    if (serial_of((uint32_t)row) == former)
        atomic_store_explicit(&waits.serial[row], serial, memory_order_release);
}

void wait_end(int row)
{
    atomic_store_explicit(&waits.serial[row], 0, memory_order_release);
    uint32_t top = atomic_load_explicit(&waits.top, memory_order_relaxed);
    while (top > 0 && serial_of(top - 1) == 0)
        top--;
    atomic_store_explicit(&waits.top, top, memory_order_relaxed);
}

void waits_after_fork(void)
{
    memset(&waits, 0, sizeof waits);
    waits_begin_segment();
}

/* ---- sampler ------------------------------------------------------------------------------------------- */

void waits_begin_segment(void)
{
    switched_out.definition = 0;
}

TICK_PATH void waits_note_sample(uint64_t serial)
{
    waits.seen[serial % SEEN] = serial;
}

/* The stack of what waits, into waits.stack. False if it does not wait, or could not be read. */
static bool read_unit(struct copy *copy, uint32_t row)
{
    const uintptr_t reference = atomic_load_explicit(&waits.row[row].reference, memory_order_relaxed);
    if (atomic_load_explicit(&waits.row[row].unit, memory_order_relaxed) == WAIT_COROUTINE)
        return reader_read_suspended(copy, reference, &waits.stack);
    enum greenlet_read read = greenlet_read(copy, reference, &waits.stack);
    if (read == GREENLET_UNKNOWN) {
        waits.stack.count = 1;
        waits.stack.flags = 0;
        waits.stack.frame[0] = (struct stack_frame){&switched_out, 0};
    }
    return read != GREENLET_RUNS;
}

static void sample_wait(struct copy *copy, uint32_t row, const struct rates *rates, uint64_t spans,
                        uint64_t wall_ns)
{
    const uint64_t serial = atomic_load_explicit(&waits.serial[row], memory_order_acquire);
    if (serial == 0 || waits.seen[serial % SEEN] == serial)
        return;
    const uint64_t begin_ns = atomic_load_explicit(&waits.row[row].begin_ns, memory_order_relaxed);
    const uint64_t now = clock_monotonic_ns();
    const uint64_t lived = now > begin_ns ? (now - begin_ns) / rates->interval_ns : 0;
    bool overflow = false;
    if (!read_unit(copy, row))
        return;
    atomic_thread_fence(memory_order_acquire);
    if (serial_of(row) != serial)
        return;
    struct record_sample record = {
        .header = {.size = sizeof record, .kind = RECORD_SAMPLE},
        .time_ns = now,
        .action_serial = serial,
        .state = STATE_BLOCKED,
        .wall_ns = wall_ns * (spans <= lived ? spans : 1 + lived),
    };
    record.stack = stacks_intern(&worker.segment, &waits.stack, rates->granularity, &waits.memory, &overflow);
    if (overflow) {
        counter_add(&worker.segment.worker->overflow, 1);
        atomic_store_explicit(&worker.want_fresh_segment, true, memory_order_relaxed);
    }
    if (lane_put(&worker.segment.lanes[LANE_SAMPLER], &record))
        counter_add(&worker.segment.worker->samples, 1);
}

TICK_PATH void waits_sample(struct copy *copy, const struct rates *rates, uint64_t spans, uint64_t random)
{
    const uint32_t top = atomic_load_explicit(&waits.top, memory_order_relaxed);
    uint32_t count = 0, row = 0, passed = 0;
    for (uint32_t i = 0; i < top; i++)
        count += serial_of(i) != 0;
    struct draw draw = draw_begin(count, WAITS_READ, random);
    const uint64_t wall_ns = draw_weight(count, WAITS_READ, rates->interval_ns);
    for (uint32_t drawn; draw_next(&draw, &drawn); row++) {
        for (; row < top && (serial_of(row) == 0 || passed++ < drawn);)
            row++;
        if (row == top)
            break; /* some have been given back meanwhile */
        sample_wait(copy, row, rates, spans, wall_ns);
    }
    if (top != 0)
        memset(waits.seen, 0, sizeof waits.seen);
}
