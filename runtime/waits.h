/*
 * Waits: profiled actions that were begun in a task, each with its task's coroutine. While a coroutine is
 * suspended no thread shows what its action does: it waits, at the innermost await of that coroutine's stack,
 * and that is a sample like any other, in the state "blocked". So it is with an action that was begun in a
 * greenlet while that is switched out. Where the stacks of such greenlets cannot be read (greenlet.h), a
 * frame
 * "(greenlet):waits" stands for it while no thread is found in the action.
 *
 * Rows are written with the GIL held and read by the sampler: `serial` is 0 while the rest of a row changes,
 * and is never used twice, so that a row with the same serial before and after was read whole.
 */
#ifndef RUNTIME_WAITS_H
#define RUNTIME_WAITS_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/cpython/copy.h"
#include "shm/rates.h"

enum {
    WAITS = 1024,
    NO_WAIT = -1,
    WAITS_READ = 4, /* stacks a tick; of more waits so many are drawn, and stand for the others */
};

enum wait_unit {
    WAIT_COROUTINE,
    WAIT_GREENLET,
};

/**
 * The action `serial`, begun at `begin_ns`, belongs to the coroutine or greenlet that the weak reference at
 * `reference` refers to; that must live until wait_end. Returns its row, or NO_WAIT if there is none free.
 */
int wait_begin(uint64_t serial, uint64_t begin_ns, enum wait_unit unit, uintptr_t reference);

/** In that row `former` was the innermost action, now it is `serial`: one nested in it has begun or ended. */
void wait_pass(int row, uint64_t former, uint64_t serial);

/** The row's first action ends. */
void wait_end(int row);

/** Sampler thread: `serial` has got a sample in this tick by what a thread does. */
void waits_note_sample(uint64_t serial);

/** Sampler thread, at the end of each tick, which stands for `spans` intervals: sample what waits. */
void waits_sample(struct copy *copy, const struct rates *rates, uint64_t spans, uint64_t random);

/** Sampler thread: another segment, in which nothing is defined yet. */
void waits_begin_segment(void);

void waits_after_fork(void);

#endif
