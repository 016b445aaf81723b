/*
 * Profile: what a pool did in some time: exact totals of each action type, and its sampled time by stack.
 *
 * Pure data: no clock, no I/O. One thread builds a profile; once it is published nobody changes it.
 *
 * Weights. A profiled action stands for w = 1 / p actions, p its admission probability (Horvitz-Thompson). As
 * the number N of all ended actions is known exactly, profile_rescale multiplies what a type's profiled
 * actions left by N / sum(w) (ratio estimator) before profiles of different times are added up. What an
 * action does from the moment on at which others may be admitted late is known with another probability, and
 * has a weight of its own; sum(w) is that of actions admitted at their begin. A type whose actions ended
 * unprofiled keeps its exact totals; its time by line is then unknown in that window.
 */
#ifndef AGGREGATOR_PROFILE_H
#define AGGREGATOR_PROFILE_H

#include <stdbool.h>
#include <stdint.h>

#include "aggregator/histogram.h"
#include "aggregator/spread.h"
#include "shm/counters.h"

enum {
    PROFILE_CELLS_MOST = 16384, /* (type, stack) pairs a profile; past it: the type's empty stack */
};

/** What became of a profiled action when it is set beside the others of its type. */
enum profile_class {
    CLASS_NONE,
    CLASS_TYPICAL, /* no longer than the median */
    CLASS_SLOW,    /* at least the 95th percentile */
};

/** Where late admission holds, an action's time has two parts, which stand for different numbers of actions.
 */
enum profile_part {
    PART_FIRST, /* known of those that were admitted at their begin */
    PART_LATER, /* from the moment on at which others were admitted too */
    PROFILE_PARTS,
};

/** What the samples of one profiled action have in common. */
struct profile_action {
    double weight[PROFILE_PARTS]; /* of the later part it is not more; of an action admitted late the first is
                                     0 */
    double together; /* how much more the lottery adds to the variance, where several were drawn as one */
    double all_ns[PROFILE_PARTS]; /* wall time of all of them */
    enum profile_class class;
};

/** Samples of one stack in one action, unweighted. */
struct profile_sample {
    uint32_t stack;
    enum sample_state state;
    enum profile_part part;
    double wall_ns, cpu_ns;
    double line_ns[PROFILE_PARTS]; /* wall time of all the action's samples whose leaf is the same line */
};

/** Time seen at one stack in actions of one type: self values, weighted, in ns. */
struct cell {
    uint32_t type, stack;
    uint32_t samples; /* as taken */
    float typical;    /* wall time in typical actions */
    double wall[SAMPLE_STATES];
    double cpu;
    float slow[SAMPLE_STATES]; /* wall time in slow actions */
    struct stack_spread spread;
};

struct type_totals {
    uint32_t type;
    uint32_t slow, typical; /* profiled actions of each class */
    uint32_t touched;       /* 1: perhaps changed since profile_commit */
    /* exact, of every ended action */
    uint64_t count, errors, profiled, latency_sum_ns, latency_max_ns;
    uint64_t denied[DENIALS]; /* why the rest was not profiled */
    struct histogram histogram;
    /* of the profiled actions whose end was merged, weighted */
    uint64_t ended; /* their number, unweighted */
    uint64_t late;  /* and how many more were admitted late: their later part is all that is known of them */
    double weight;
    double latency;                /* ns */
    double run_delay, run_latency; /* ns; of those where the run delay was measured */
    double cpu, cpu_latency;       /* ns; of those where the CPU time was measured */
    struct type_spread spread;
};

struct profile {
    struct type_totals *type;
    uint32_t types, types_room;
    uint32_t *type_index; /* by type id: index + 1 */
    uint32_t type_index_room;
    struct cell *cell;
    uint32_t cells, cells_room;
    uint64_t *cells_touched; /* a bit a cell: changed since profile_commit */
    uint32_t *slots;         /* open addressing: cell + 1 */
    uint32_t slot_mask;
    uint64_t folded; /* samples that found no cell of their own */
};

void profile_close(struct profile *profile);

/** The totals of a type, added if need be, to be changed. NULL without memory. Valid until the next call. */
struct type_totals *profile_type(struct profile *profile, uint32_t type);

/** The same, NULL if it is not there. */
const struct type_totals *profile_find_type(const struct profile *profile, uint32_t type);

/** Add one sample of an action to its type's stacks. */
void profile_add_sample(struct profile *profile, uint32_t type, const struct profile_action *action,
                        const struct profile_sample *sample);

/** Add to a type what an action's samples came to by state: their time, and the squares (s²) of each one's.
 */
void profile_add_states(struct type_totals *totals, const struct profile_action *action,
                        const double wall_ns[PROFILE_PARTS][SAMPLE_STATES],
                        const double squares[PROFILE_PARTS][SAMPLE_STATES]);

/** Add what was measured when the action ended; NULL: it was not. */
void profile_add_end(struct type_totals *totals, const struct profile_action *action, uint64_t latency_ns,
                     const uint64_t *run_delay_ns, const uint64_t *cpu_ns);

/** Add that an action has ended that was admitted late. */
void profile_add_late(struct type_totals *totals, const struct profile_action *action);

/** Add to what is known of a stack what is known of another, as if they were one. */
void profile_add_spread(struct stack_spread *into, const struct stack_spread *from);

/** The cell of just this type and stack, added if need be; NULL without memory or past the bound. */
struct cell *profile_cell(struct profile *profile, uint32_t type, uint32_t stack);

/** Has a sample been added to this cell since profile_commit? */
static inline bool profile_cell_touched(const struct profile *profile, uint32_t index)
{
    return profile->cells_touched[index / 64] >> (index % 64) & 1;
}

/** What is here has been kept: from now on only what changes is touched. */
void profile_commit(struct profile *profile);

/** Scale each type's sampled part to its exact count of ended actions. Once, when the profile is complete. */
void profile_rescale(struct profile *profile);

/** Add a rescaled profile to another. 0 or -ENOMEM. */
int profile_merge(struct profile *into, const struct profile *from);

/** Nothing in it? */
static inline bool profile_empty(const struct profile *profile)
{
    return profile->types == 0 && profile->cells == 0;
}

/** Start afresh, keeping the memory. */
void profile_clear(struct profile *profile);

/** Copies of the cells of one type, malloc'ed; NULL without memory. */
struct cell *profile_cells_of(const struct profile *profile, uint32_t type, uint32_t *count);

#endif
