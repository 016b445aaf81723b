/*
 * Meter: what our hooks cost the application's request threads.
 *
 * Reading a clock at each hook would cost as much as the hook. One hook in METER_EVERY is timed and stands
 * for the others; the rare expensive part (an admitted action's begin and end) is timed each time, and taken
 * out of the timed hooks so that it is not counted twice. What comes before and after a hook's own code (the
 * call through the interpreter, objects made and freed, a header more to send) cannot be timed from inside:
 * METER_AROUND_NS stands for it, as found with warm caches: 0.2 us a hook of a request (`bench/wsgi_hook.py`
 * prints what was told beside what the clock says), 0.4 us where Python code begins an action. Where they are
 * cold, hooks themselves take ten times that. A time above METER_CEILING_NS was a preemption,
 * not work, and is cut. What may be long, delivery to callables, is read off the thread's CPU clock. All of
 * it happens with the GIL held, so plain variables do.
 */
#ifndef RUNTIME_METER_H
#define RUNTIME_METER_H

#include <stdbool.h>
#include <stdint.h>

#include "shm/clock.h"

enum {
    METER_EVERY = 32,
    METER_CEILING_NS = 25000,
    METER_AROUND_NS = 300,
};

struct meter {
    uint64_t hooks;
    uint64_t cost_ns;         /* estimate of all hooks so far */
    uint64_t exact_ns;        /* the part of it that was timed each time */
    uint64_t published_hooks; /* `hooks` when the figures were last put into the segment */
};

struct meter_mark {
    uint64_t start_ns; /* 0: this hook is not timed */
    uint64_t exact_ns;
};

/** A time in ns without what was a preemption. */
static inline uint64_t meter_cut(uint64_t ns)
{
    return ns < METER_CEILING_NS ? ns : METER_CEILING_NS;
}

/** A hook begins, and ends with meter_leave. Hooks inside each other are hooks each. */
static inline struct meter_mark meter_enter(struct meter *meter)
{
    if (++meter->hooks % METER_EVERY != 0) /* never the first one, which attaches */
        return (struct meter_mark){0, 0};
    return (struct meter_mark){clock_monotonic_ns(), meter->exact_ns};
}

static inline void meter_leave(struct meter *meter, struct meter_mark mark)
{
    if (mark.start_ns == 0)
        return;
    uint64_t exact = meter->exact_ns - mark.exact_ns;
    uint64_t spent = clock_monotonic_ns() - mark.start_ns;
    meter->cost_ns += METER_EVERY * (METER_AROUND_NS + meter_cut(spent > exact ? spent - exact : 0));
}

/** Add a part that a thread's CPU clock has measured, on whichever thread of ours or the application's. */
static inline void meter_used(struct meter *meter, uint64_t cpu_ns)
{
    meter->exact_ns += cpu_ns;
    meter->cost_ns += cpu_ns;
}

/** Add a part that was timed by itself, by a clock that goes on when the thread does not. */
static inline void meter_exact(struct meter *meter, uint64_t spent_ns)
{
    meter_used(meter, spent_ns < 10 * METER_CEILING_NS ? spent_ns : 10 * METER_CEILING_NS);
}

#endif
