/*
 * Budget controller: from what the profiler cost, what it may do next. A pure function, without clock or I/O,
 * so that it can be simulated and replayed.
 *
 * Promise: over any 10 s (trailing window),
 *     (sampler + hook + aggregator CPU) / max(CPU of the workers, 5 % of one core for each) <= max_overhead.
 * It acts before that is spent: once a cycle it works out what the next cycle may cost so that the window
 * stays at BUDGET_TARGET of the bound, and from the cost a unit of work had, how much work that buys.
 *
 * Work is one number, 1 = all that was asked for. It is turned into limits in this order: a longer interval
 * (up to 10 times), coarser stacks, fewer admitted actions, pause; and back in the reverse order. Cuts are
 * made at once, raises by at most 20 % a cycle and only where there is clear room. Where the hooks of
 * unprofiled actions alone pass the bound, they are switched to pass-through for a while.
 *
 * What the next cycle will cost is judged by cycles that were: the cost of work and the workers' CPU always
 * from the same ones, so that a load that falls, and with it both, takes no detail away. A pool that idles
 * spends nothing and is held ready: with as much work as a sudden return of the most expensive load of
 * the last ten minutes may do until the brake takes hold. That memory chooses where a spike begins, and
 * nothing else.
 *
 * The brake (budget_brake) is for what comes within a cycle: several times in each it is asked whether the
 * cycle has spent what it may, and if so the rest of it is a pause.
 */
#ifndef AGGREGATOR_BUDGET_H
#define AGGREGATOR_BUDGET_H

#include <stdbool.h>
#include <stdint.h>

#define BUDGET_OVERHEAD_LEAST 0.0005 /* what may be asked for: ratio; settings.py has the same bounds */
#define BUDGET_OVERHEAD_MOST 0.5
#define BUDGET_TARGET 0.88  /* of max_overhead: what a window may cost by plan */
#define BUDGET_FLOOR 0.05   /* of a core, a worker */
#define BUDGET_LONGEST 10.0 /* times the asked interval */
#define BUDGET_PAUSED 100.0 /* and in a pause, for actions that are still open */
enum {
    BUDGET_CYCLES = 10, /* of 1 s: the trailing window */
    BUDGET_MEMORY = 60, /* trailing windows: ten minutes */
};

/** What is asked for. */
struct budget_asked {
    double max_overhead; /* ratio */
    uint64_t interval_ns;
    uint32_t granularity; /* enum granularity */
    uint32_t cap;         /* newly profiled actions a cycle, 0: any */
};

/** What one cycle cost. CPU in seconds. */
struct budget_measure {
    double seconds; /* how long the cycle was */
    double sampler_cpu, hook_cpu, aggregator_cpu;
    double worker_cpu; /* of the workers, without our parts */
    double attached;   /* sum over workers of the seconds they were attached */
    double demand;     /* root actions begun */
    double admitted;   /* of these, profiled */
};

/** Why the limits are what they are. */
enum budget_reason {
    BUDGET_STARTING,    /* it is too early to judge by what was measured */
    BUDGET_FITS,        /* all that is asked for fits into the budget */
    BUDGET_FULL,        /* as much as fits */
    BUDGET_TOO_DEAR,    /* less than before: what it would cost does not fit */
    BUDGET_ROOM,        /* more than before: there is room */
    BUDGET_IDLE,        /* idle, and held ready for a return of the load */
    BUDGET_SPENT,       /* paused: not one profiled action fits */
    BUDGET_WAITS,       /* paused until the window has room again for what usually fits */
    BUDGET_BRAKED,      /* paused for the rest of a cycle that has spent what it may */
    BUDGET_HOOKS_ALONE, /* let through uncounted: counting alone passed the bound */
    BUDGET_TAKEN_OVER,  /* as an aggregator before this one left them */
    BUDGET_REASONS,
};

struct budget_limits {
    uint64_t interval_ns;
    uint32_t granularity;
    uint32_t cap;
    uint32_t lottery; /* the cap that probabilities are to be aimed at; 0: none, `cap` only stops a surge */
    bool paused, passthrough;
    enum budget_reason reason;
};

/** What a second was like. What could not be seen (nothing was profiled) is 0. */
struct budget_load {
    double worker_cpu, attached, demand, admitted;
    double sampler_cpu, exposure; /* of the samplers, and how much of full sampling it was */
    double action_cpu, share; /* of hooks and aggregator for profiled actions, and which share they were */
};

struct budget_state {
    struct budget_measure cycle[BUDGET_CYCLES];
    struct budget_measure seen[BUDGET_CYCLES]; /* the same as they were: in `cycle` starting is forgiven */
    uint32_t next, cycles;                     /* cycles with a worker attached */
    double work;                               /* 0 … 1 */
    uint32_t granularity;                      /* in force */
    enum budget_reason reason;
    bool started;

    /* what things cost, and what is usual (budget_cost.h) */
    double exposure[BUDGET_CYCLES], share[BUDGET_CYCLES]; /* as in struct budget_load */
    struct budget_load usual;                             /* a slow mean (budget_usual.h) … */
    uint32_t usual_cycles, usual_since; /* … of so many; since it was replaced, up to BUDGET_CYCLES */
    double idle_cpu, busy_cpu;    /* what a second costs the aggregator at the least: at rest, under load */
    double hook_cpu;              /* what an action costs that is not profiled */
    double sampler_cpu;           /* what a second of full work costs the samplers, as last seen */
    double action_cpu;            /* and what its profiled actions cost hooks and aggregator on top */
    double each_action_cpu;       /* what one of those costs */
    double spike_cpu;             /* the most that sampler_cpu was lately */
    double memory[BUDGET_MEMORY]; /* the most that it was in each of the last windows; 0: nothing profiled */
    uint32_t memory_at, memory_cycles;

    /* the brake, pass-through, and caps of our own */
    uint32_t quiet_for; /* cycles without an action */
    bool waits;         /* paused for a window that has spent what it may … */
    uint32_t waits_for; /* … for so many cycles */
    double unbraked;    /* the part of this cycle before the brake took hold; 0: it did not */
    uint32_t paused_for, over_for, pass_for, pass_hold; /* cycles */
    double pass_cpu;                                    /* of the workers, when hooks were let through */
    uint32_t cap_given;                                 /* a cap that is not the application's; 0: none */
    double used;                                        /* how much of such a cap the lottery uses */
};

/** Begin with the work that such limits stand for: another controller had set them. */
void budget_resume(struct budget_state *state, const struct budget_asked *asked, uint64_t interval_ns,
                   uint32_t granularity);

/** The reason in words, for people. */
const char *budget_reason_text(enum budget_reason reason);

/** Overhead over the trailing window, ratio. */
double budget_overhead(const struct budget_state *state);

/**
 * Within a cycle, any number of times: `so_far` is what it cost up to now; it is asked again, and what it
 * says is obeyed, in `ahead_s`. True if that is all it may cost: then `limits` are those of a pause until the
 * next step, and where even the window is spent hooks are let through.
 */
bool budget_brake(struct budget_state *state, const struct budget_asked *asked,
                  const struct budget_measure *so_far, double ahead_s, struct budget_limits *limits);

/** Would it? So it can be asked with what is known at no cost, before the workers' CPU is read. */
bool budget_would_brake(const struct budget_state *state, const struct budget_asked *asked,
                        const struct budget_measure *so_far, double ahead_s,
                        const struct budget_limits *limits);

/** One cycle. `limits` is set. */
void budget_step(struct budget_state *state, const struct budget_asked *asked,
                 const struct budget_measure *measure, struct budget_limits *limits);

#endif
