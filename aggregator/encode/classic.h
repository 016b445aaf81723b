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

#include <jansson.h>
#include <stdint.h>

#include "aggregator/merge.h"

enum {
    CLASSIC_ID_BYTES = 56,
};

struct classic_origin {
    const char *source;
    uint8_t segment[16]; /* of the worker */
    int32_t pid;
    int64_t real_offset_ns; /* CLOCK_REALTIME minus CLOCK_MONOTONIC */
};

/** The id of an action's message: the same each time it is told, and no other's. */
void classic_id(const struct classic_origin *origin, uint64_t serial, char out[CLASSIC_ID_BYTES]);

/** The same for what is told of a window under a name. */
void classic_window_id(const struct window *window, const char *source, const char *name,
                       char out[CLASSIC_ID_BYTES]);

/** A uuid with dashes. */
void classic_uuid(const uint8_t uuid[16], char out[37]);

/** What was logged, as an object of one's own; NULL if the text is none. */
json_t *classic_logged(const struct held_message *held);

/** One line without its newline, malloc'ed; NULL without memory. */
char *classic_action(const struct merge *merge, uint32_t root, const struct classic_origin *origin);

/** The same for one type of a rescaled window. */
char *classic_profile(const struct merge *merge, const struct window *window,
                      const struct type_totals *totals, const char *source);

#endif
