/*
 * Classic messages: one JSON object for each profiled action, in the form that existing analysis tools read,
 * and one for each action type of a closed window ("profile").
 *
 * The tree of an action is in order of time: samples that follow one another share their common frames. A
 * nested action's begin and end, and what the application logged, split it at their place in time. The root's
 * time is the action's measured duration; its children are scaled to it. Times are seconds, instants are ISO
 * 8601 in UTC.
 */
#ifndef AGGREGATOR_ENCODE_CLASSIC_H
#define AGGREGATOR_ENCODE_CLASSIC_H

#include <stdint.h>

#include "aggregator/encode/identity.h"
#include "aggregator/merge.h"

/** One line without its newline, malloc'ed; NULL without memory. */
char *classic_action(const struct merge *merge, uint32_t root, const struct origin *origin);

/** The same for one type of a rescaled window. */
char *classic_profile(const struct merge *merge, const struct window *window,
                      const struct type_totals *totals, const char *source);

#endif
