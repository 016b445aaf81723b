/*
 * Slots: the threads on which profiled actions are open, for the sampler to look at.
 *
 * A thread has one slot, however many actions are open on it: nested ones, or those of the tasks and
 * greenlets that take turns on it. Which of them it is in now is for the sampler to find out, from the
 * context that the thread is in (owner.h); what a slot says of that is a hint: in which context a hook of
 * ours last ran on the thread, and which action was the innermost one there then.
 *
 * The slot of a candidate for late admission is taken at its begin and not looked at until it is due; then
 * the sampler decides. A candidate that ends before costs the sampler nothing but, where it is parked, one
 * wake-up at its begin and one at its moment, and those are shared: it sleeps until the earliest moment of
 * all. One that is refused has no slot from then on, and nobody waits for its end.
 *
 * Written with the GIL held, read by the sampler. Facts lie between two changes of `version`, which is odd
 * while they change, 0 where the slot is free, and never has the same value twice. The sampler takes back a
 * slot that nobody will give back: a refused candidate's, and that of a thread that has ended while an action
 * of it is still open (somebody holds on to the action, or it is for another thread to end). So every change
 * begins with a compare-and-swap. At each tick the sampler goes through all versions, which therefore stand
 * together.
 *
 * A thread that ends says so itself, by its slot's ticket, since its id may be another thread's by the time
 * anybody looks. What was not made by pthread_create is found missing when it is looked at.
 */
#ifndef RUNTIME_SLOTS_H
#define RUNTIME_SLOTS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "runtime/cpython/reader.h"

enum {
    SLOTS = 1024, /* threads that can be inside profiled actions at once */
    NO_SLOT = -1,
    SLOTS_WAITING = 64, /* of them, candidates for late admission */
};

/* What stands in `due_ns` of a slot. */
#define SLOT_SAMPLED UINT64_C(0)  /* its thread is looked at at each tick */
#define SLOT_LATE UINT64_C(1)     /* the same, since a candidate was admitted late */
#define SLOT_REFUSED (UINT64_MAX) /* a candidate that was not, about to be freed */
/* Anything else: the moment at which a candidate is due. */

struct slot_facts {
    struct reader_thread thread;
    uint64_t place;    /* of the thread: place_here() */
    uint64_t begin_ns; /* of the action that took the slot, the outermost one where they are nested */
    uint64_t context;  /* the hint: in this context … */
    uint64_t serial;   /* … this profiled action was the innermost one; 0: none was, or it is not known */
    uint32_t shared;   /* actions take turns on the thread: its CPU clock is not that of one of them */
};
_Static_assert(sizeof(struct slot_facts) % 8 == 0, "whole words");

struct slots {
    _Atomic uint32_t armed;   /* slots in use whose threads are to be looked at */
    _Atomic uint32_t waiting; /* the other ones in use */
    _Atomic uint32_t top;     /* slots at and above it are free */
    _Atomic uint32_t carried; /* threads without a slot may be in profiled actions: they took them over */
    _Atomic uint32_t ended;   /* threads have ended that had slots: the sampler is to look which */
    _Atomic uint64_t version[SLOTS];
    _Atomic uint64_t due_ns[SLOTS];
    struct slot {
        _Atomic uint64_t ticket; /* of who took the slot; a later one has another. Changed by GIL holders */
        _Atomic uint64_t ended;  /* the newest ticket whose thread has ended */
        uint32_t users;          /* GIL holders: actions that keep it */
        _Atomic uint64_t facts[sizeof(struct slot_facts) / 8];
    } slot[SLOTS];
};
extern struct slots slots;

/** Once, when the extension is loaded. */
void slots_open(void);

/** An action's share in a slot. */
struct slot_use {
    uint64_t ticket;
    int16_t slot; /* NO_SLOT: none */
    bool keeps;   /* the slot stays in use until this is given back */
};
#define SLOT_UNUSED ((struct slot_use){.slot = NO_SLOT})

/**
 * The calling thread, whose native id is `tid`, comes into a profiled action at `begin_ns`. `outer` is the
 * share of the action around it or NULL: on the same thread it keeps the slot for both. False: there is no
 * slot free.
 */
bool slot_enter(struct slot_use *use, int32_t tid, uint64_t begin_ns, const struct slot_use *outer);

/**
 * The calling thread comes into a candidate, which is due at `due_ns`. False if it has no free slot to
 * itself, or there are too many candidates.
 */
bool slot_wait(struct slot_use *use, int32_t tid, uint64_t due_ns);

/** Whether a candidate was admitted late; from now on it is not. Before its share is given back. */
bool slot_was_late(const struct slot_use *use);

/** Sampler thread: decide on what is due at `now_ns`, and free the slots of what is refused. */
void slots_admit_due(uint64_t now_ns, bool (*admit)(uint64_t now_ns));

/** Sampler thread: the earliest moment of a candidate; UINT64_MAX: there is none. */
uint64_t slots_next_due(void);

/**
 * In the calling thread's current context the action `serial` is the innermost one now; 0: none is. False:
 * the thread has no slot to say it in.
 */
bool slot_hint(uint64_t serial, bool takes_turns);

/** A thread without a slot comes into a profiled action, begun on another one: the sampler is to look at all
 * threads from now on. */
static inline void slots_carry(void)
{
    atomic_store_explicit(&slots.carried, 1, memory_order_relaxed);
}

/** Give the share back, on any thread. The hint goes from `serial` to `outer` (0: none). */
void slot_leave(struct slot_use *use, uint64_t serial, uint64_t outer);

/** Sampler thread: what slot `i` says, and its version; 0 if it is free or just changes. */
uint64_t slot_read(uint32_t i, struct slot_facts *facts);

static inline uint64_t slot_version(uint32_t i)
{
    return atomic_load_explicit(&slots.version[i], memory_order_relaxed);
}

/** Is the slot in use, and its thread to be looked at? */
static inline bool slot_is_sampled(uint32_t i)
{
    return slot_version(i) != 0 && atomic_load_explicit(&slots.due_ns[i], memory_order_relaxed) <= SLOT_LATE;
}

/** Sampler thread: take back slot `i`, whose thread has died. Nothing if it has another version by now. */
void slot_reclaim(uint32_t i, uint64_t version);

/** Sampler thread: take back the slots of threads that have said that they end. */
void slots_reclaim_ended(void);

void slots_after_fork(void);

#endif
