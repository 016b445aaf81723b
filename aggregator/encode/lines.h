/*
 * Lines: a type's sampled time by instruction, for the tables of a report.
 *
 * One struct serves one report: it is filled for a type, read, and filled again. Arrays are as long as the
 * pool has instructions, so that a stack is walked without a look-up.
 */
#ifndef AGGREGATOR_ENCODE_LINES_H
#define AGGREGATOR_ENCODE_LINES_H

#include <stdbool.h>
#include <stdint.h>

#include "aggregator/merge.h"
#include "aggregator/profile.h"

enum line_state {
    LINE_RUNNABLE = SAMPLE_STATES,
    LINE_STATES,
};

/** All in ns, as sampled and weighted. */
struct line {
    double self[LINE_STATES];
    double self_total, time; /* time: inclusive, once a stack */
    double slow[SAMPLE_STATES], slow_total, typical;
    struct stack_spread spread, around; /* of the self time; of all of its time (`apart` is not known) */
    uint32_t samples;
    uint32_t seen; /* the walk that saw it last */
    bool listed;   /* it stands in `used` */
};

struct lines {
    const struct merge *merge;
    struct line *line; /* by instruction */
    uint32_t room;
    uint32_t *used; /* the instructions that have any time */
    uint32_t used_count;
    uint32_t walk;
    double slow_total, typical_total;
};

/** 0 or -ENOMEM. */
int lines_open(struct lines *lines, const struct merge *merge);
void lines_close(struct lines *lines);

/** Fill from the cells of a type (`cells` of them, in a row). `runnable` is the share (0 … 1) of cpu and
 * native that was waiting for a core. */
void lines_fill(struct lines *lines, const struct cell *cell, uint32_t cells, double runnable);

/** Order `used` by self time / by how much more slow actions did of it, descending. */
void lines_by_self(struct lines *lines);
void lines_by_difference(struct lines *lines);

/** Share in slow actions minus share in typical ones. */
double lines_difference(const struct lines *lines, const struct line *line);

/**
 * What threads mostly did at a line, by self time. Running and waiting for a core are weighed as one against
 * the other states, because that is what was sampled; if they win it is named by the larger: on a machine
 * with too few cores a line that computes is "runnable" where it waited longer for a core than it had one,
 * else "cpu" (or "native").
 */
const char *lines_self_state(const struct line *line);

/** The state with the most of `of`, as a report names it. */
const char *lines_state(const double *of, int states);

#endif
