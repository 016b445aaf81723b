/* A root action in order of time: see story.h. */
#include "aggregator/encode/story.h"

#include <stdlib.h>

#include "aggregator/encode/identity.h"

static int by_sample_time(const void *a, const void *b)
{
    const struct held_sample *x = a, *y = b;
    return x->time_ns < y->time_ns ? -1 : x->time_ns > y->time_ns;
}

static int by_event_time(const void *a, const void *b)
{
    const struct story_event *x = a, *y = b;
    if (x->time_ns != y->time_ns)
        return x->time_ns < y->time_ns ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

static struct held_sample *samples_of(const struct actions *actions, uint32_t root)
{
    const struct action *action = &actions->action[root];
    struct held_sample *sample = malloc((action->samples + 1) * sizeof *sample);
    uint32_t n = 0;
    if (sample == NULL)
        return NULL;
    for (uint32_t s = action->first_sample; s != ACTIONS_NONE; s = actions->sample[s].next)
        sample[n++] = actions->sample[s];
    qsort(sample, n, sizeof *sample, by_sample_time);
    return sample;
}

static void add_event(struct story *story, uint64_t time_ns, uint32_t action, bool end)
{
    struct story_event *event = &story->event[story->events];
    *event = (struct story_event){.time_ns = time_ns, .action = action, .end = end, .order = story->events++};
}

static void add_fields(struct story *story, const struct held_message *held)
{
    const struct actions *actions = &story->merge->actions;
    for (uint32_t i = 0; i < story->family_events; i++) {
        struct story_event *event = &story->event[i];
        if (event->end || actions->action[event->action].begin.action_serial != held->serial)
            continue;
        for (int k = 0; k < STORY_FIELDS_MOST; k++)
            if (event->fields[k] == NULL) {
                event->fields[k] = held;
                return;
            }
    }
}

/* What the log says of a begin or an end goes to it; what else was logged is an event of its own. */
static void add_message(struct story *story, const struct held_message *held)
{
    const struct actions *actions = &story->merge->actions;
    if ((held->flags & MESSAGE_FIELDS) != 0) {
        add_fields(story, held);
        return;
    }
    bool end = (held->flags & MESSAGE_END) != 0;
    bool tells = (held->flags & (MESSAGE_BEGIN | MESSAGE_END)) != 0;
    for (uint32_t i = 0; i < story->family_events && tells; i++) {
        struct story_event *event = &story->event[i];
        if (event->end == end && event->text == NULL &&
            actions->action[event->action].begin.action_serial == held->serial) {
            event->text = held;
            return;
        }
    }
    bool of_root = end && held->serial == actions->action[story->root].begin.action_serial;
    add_event(story, held->time_ns, of_root ? story->root : ACTIONS_NONE, of_root);
    story->event[story->events - 1].text = held;
}

static bool gather_events(struct story *story)
{
    const struct actions *actions = &story->merge->actions;
    const struct messages *messages = &actions->action[story->root].messages;
    uint32_t most = 1 + messages->count;
    for (uint32_t at = actions->action[story->root].family; at != ACTIONS_NONE;
         at = actions->action[at].sibling)
        most += 2;
    story->event = malloc(most * sizeof *story->event);
    if (story->event == NULL)
        return false;
    add_event(story, 0, story->root, false);
    for (uint32_t at = actions->action[story->root].family; at != ACTIONS_NONE;
         at = actions->action[at].sibling) {
        const struct action *member = &actions->action[at];
        add_event(story, member->begin.time_ns, at, false);
        if (member->ended)
            add_event(story, member->end.time_ns, at, true);
    }
    story->family_events = story->events;
    for (const struct held_message *held = messages->first; held != NULL; held = held->next)
        add_message(story, held);
    qsort(story->event, story->events, sizeof *story->event, by_event_time);
    return true;
}

bool story_open(struct story *story, const struct merge *merge, uint32_t root)
{
    *story = (struct story){.merge = merge, .root = root, .samples = merge->actions.action[root].samples};
    story->sample = samples_of(&merge->actions, root);
    if (story->sample != NULL && gather_events(story))
        return true;
    story_close(story);
    return false;
}

void story_close(struct story *story)
{
    free(story->sample);
    free(story->event);
    story->sample = NULL;
    story->event = NULL;
}

/* ---- words ------------------------------------------------------------------------------------------- */

const char *story_status(const struct action *action)
{
    return action->end.header.flags & END_ERROR ? "failed" : "succeeded";
}

/* The texts come from a worker: what is no JSON object is none. */
json_t *story_logged(const struct held_message *held)
{
    json_t *json = json_loadb(held->text, held->length, 0, NULL);
    if (json_is_object(json))
        return json;
    json_decref(json);
    return NULL;
}

/* Fields never take the place of what the message says itself. */
static json_t *with_fields(json_t *message, const struct story_event *event)
{
    for (int k = 0; k < STORY_FIELDS_MOST && event->fields[k] != NULL; k++) {
        json_t *fields = story_logged(event->fields[k]);
        json_object_update_missing(message, fields);
        json_decref(fields);
    }
    return message;
}

json_t *story_message(const struct merge *merge, const struct story_event *event)
{
    json_t *logged = event->text != NULL ? story_logged(event->text) : NULL;
    if (logged != NULL)
        return with_fields(logged, event);
    if (event->action == ACTIONS_NONE)
        return json_pack("{s:b}", "unreadable", true);
    const struct action *action = &merge->actions.action[event->action];
    char uuid[UUID_TEXT_BYTES];
    identity_uuid_text(action->begin.task_uuid, uuid);
    json_t *message =
        json_pack("{s:s,s:s,s:s}", "action_type", names_text(&merge->types, action->type), "action_status",
                  event->end ? story_status(action) : "started", "task_uuid", uuid);
    return with_fields(message, event);
}

void story_of_root(const struct story *story, json_t **exception, json_t **task_level)
{
    *exception = *task_level = NULL;
    for (uint32_t i = 0; i < story->events; i++) {
        const struct story_event *event = &story->event[i];
        if (event->action != story->root || event->text == NULL)
            continue;
        json_t *logged = story_logged(event->text);
        json_t *name = json_object_get(logged, "exception"), *level = json_object_get(logged, "task_level");
        if (event->end && *exception == NULL && json_is_string(name))
            *exception = json_incref(name);
        if (!event->end && *task_level == NULL && json_is_array(level) && json_array_size(level) > 1) {
            json_array_remove(level, json_array_size(level) - 1); /* the last one is the message's own */
            *task_level = json_incref(level);
        }
        json_decref(logged);
    }
}

void story_add_trace(const struct story *story, json_t *json)
{
    static const char *const keys[] = {"trace_id", "span_id"};
    for (uint32_t i = 0; i < story->events; i++) {
        if (story->event[i].action != story->root || story->event[i].end)
            continue;
        json_t *fields = with_fields(json_object(), &story->event[i]);
        for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
            json_t *id = json_object_get(fields, keys[k]);
            if (json_is_string(id))
                json_object_set(json, keys[k], id);
        }
        json_decref(fields);
        return;
    }
}
