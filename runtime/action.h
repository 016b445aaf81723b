/*
 * Action: something the application does that has a name, a begin and an end.
 *
 * action_begin fills a handle, action_end takes it: on any thread, in any order, twice harmlessly, also in
 * the child of a fork (where it does nothing). Both are called with the GIL held.
 *
 * An action that is not admitted touches counters only. An admitted one (or one nested in an admitted one:
 * the root decides) puts a begin and an end record in the action lane, and a slot (slots.h) tells the sampler
 * of its thread.
 */
#ifndef RUNTIME_ACTION_H
#define RUNTIME_ACTION_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/slots.h"
#include "runtime/waits.h"
#include "shm/rates.h"
#include "shm/segment.h"

/** What the threads of all actions that have ended here have run, and have been ready without a core. */
struct thread_times {
    _Atomic uint64_t ran_ns, delayed_ns;
};
extern struct thread_times thread_times;

struct action {
    uint64_t begin_ns;
    uint64_t serial; /* 0: not profiled. One inside a candidate has the candidate's */
    uint64_t parent_serial;
    uint64_t begin_cpu_ns;
    uint64_t begin_delay_ns;
    uint32_t generation; /* of the process that began it */
    uint32_t path_hash;
    uint32_t probability;
    struct rates_late late; /* of a root: what holds for it */
    int32_t tid;
    uint32_t turn; /* roots begun and ended on its thread by then: others since mean that they take turns */
    struct slot_use use;
    int16_t wait; /* its row in the table of those that may wait (waits.h), or NO_WAIT */
    bool keeps_wait;
    bool in_task;
    bool open;
    bool is_candidate; /* for late admission, or inside one: no story of its own is told */
    bool is_root;
    bool has_delay;
    uint8_t denial; /* enum denial: why it is not profiled; DENIALS if it is */
    uint8_t task_uuid[16];
};

/**
 * Begin. `name` is what is known of it now (for a web request its normalised path); `parent` the action it is
 * nested in, or NULL. `task_uuid` is inherited from the parent, else taken from `task_uuid` if that is not
 * NULL, else made. `settled` says that `name` is the action type, not merely a hint. Does nothing (open stays
 * false) when profiling is off.
 */
void action_begin(struct action *action, const char *name, size_t length, bool settled,
                  const struct action *parent, const uint8_t *task_uuid);

/**
 * End with the action type `name`. `outer` is the innermost action around it that is still open, or NULL.
 * Returns true if it was a profiled root (then destinations in this process may have a message soon).
 */
bool action_end(struct action *action, const char *name, size_t length, bool error,
                const struct action *outer);

/**
 * Tell of something that was logged inside the action: `text` is a JSON object, `flags` and `depth` as in
 * struct record_message. Nothing happens unless it is profiled and open. A text longer than
 * action_text_most() is counted as lost, and so is one where the lane is rather full: begins and ends need
 * the room.
 */
void action_tell(const struct action *action, const char *text, size_t length, unsigned flags,
                 uint32_t depth);

/** The longest text of a message, in bytes; 0 while there is no segment. */
size_t action_text_most(void);

/** True if it was admitted at its begin, or its root was: then its story is told. */
static inline bool action_is_profiled(const struct action *action)
{
    return action->serial != 0 && !action->is_candidate;
}

/** True if the handle is open and was begun in this very process. */
bool action_is_live(const struct action *action);

/** Tell the sampler that `action` (NULL: none) is the current one of the calling thread's context now. */
void action_is_current(struct action *action);

/** A fresh segment: forget type rows. */
void actions_begin_segment(struct segment *segment);

void actions_after_fork(void);

/** A random (version 4) UUID. */
void action_make_uuid(uint8_t out[16]);

#endif
