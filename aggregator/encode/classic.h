/*
 * Classic messages: one JSON object for each profiled action, in the form that existing analysis tools read,
 * and one for each action type of a closed window ("profile").
 *
 * The tree of an action is in order of time: samples that follow one another share their common frames. A
 * nested action's begin and end split it at their place in time. The root's time is the action's measured
 * duration; its children are scaled to it. Times are seconds, instants are ISO 8601 in UTC.
 */
#ifndef AGGREGATOR_ENCODE_CLASSIC_H
#define AGGREGATOR_ENCODE_CLASSIC_H

#include <stdint.h>

#include "aggregator/merge.h"

struct classic_origin {
    const char *source;
    int32_t pid;
    int64_t real_offset_ns; /* CLOCK_REALTIME minus CLOCK_MONOTONIC */
};

/** One line without its newline, malloc'ed; NULL without memory. */
char *classic_action(const struct merge *merge, uint32_t root, const struct classic_origin *origin);

/** The same for one type of a rescaled window. */
char *classic_profile(const struct merge *merge, const struct window *window,
                      const struct type_totals *totals, const char *source);

#endif
