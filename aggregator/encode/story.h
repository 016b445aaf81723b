/*
 * Story: what is known of a profiled root action, in order of time: its samples, and the events among them,
 * which are the begins and ends of nested actions and what the application logged.
 */
#ifndef AGGREGATOR_ENCODE_STORY_H
#define AGGREGATOR_ENCODE_STORY_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "aggregator/merge.h"

enum {
    STORY_FIELDS_MOST = 2, /* sets of fields that one action has: its own, and of the trace it is part of */
};

/** A begin or an end of an action in the family, or something that was logged. */
struct story_event {
    uint64_t time_ns; /* 0: the root's begin */
    uint32_t action;  /* ACTIONS_NONE: just logged */
    bool end;
    uint32_t order;
    const struct held_message *text; /* what the application's log says of it; NULL: nothing */
    const struct held_message *fields[STORY_FIELDS_MOST]; /* of a begin; NULL: none */
};

struct story {
    const struct merge *merge;
    uint32_t root;
    struct held_sample *sample;
    uint32_t samples;
    struct story_event *event;
    uint32_t events;
    uint32_t family_events; /* while it is opened: the first so many are begins and ends */
};

/** False without memory. */
bool story_open(struct story *story, const struct merge *merge, uint32_t root);
void story_close(struct story *story);

/** What an event says: the log's own words, else ours. A new reference. */
json_t *story_message(const struct merge *merge, const struct story_event *event);

/** What was logged, as an object of one's own; NULL if the text is none. */
json_t *story_logged(const struct held_message *held);

/** "succeeded" or "failed". */
const char *story_status(const struct action *action);

/** What the application's log says of the action as a whole: `exception`, a string that ended it, and
 * `task_level`, a list: where in its task it began. New references, or NULL. */
void story_of_root(const struct story *story, json_t **exception, json_t **task_level);

/** Put the trace that the action was part of into `json`, as far as it is known: `trace_id` and `span_id`. */
void story_add_trace(const struct story *story, json_t *json);

#endif
