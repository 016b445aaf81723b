/* Messages as tasks of Eliot: see eliot.h. */
#include "aggregator/encode/eliot.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "aggregator/encode/story.h"
#include "aggregator/encode/whole.h"

enum {
    DEPTH_MOST = 512, /* frames that are told of a stack */
    TOP_MOST = 5,
};

/* ---- a task, line by line ---------------------------------------------------------------------------- */

struct task {
    char uuid[UUID_TEXT_BYTES];
    char *lines;
    size_t length;
    int level;
    bool failed;
};

/* One message: what every message of Eliot has, then `fields`, which is taken over. */
static void say(struct task *task, uint64_t real_ns, const char *type_key, const char *type,
                const char *status, json_t *fields)
{
    json_t *json = json_pack("{s:s,s:[i],s:f,s:s}", "task_uuid", task->uuid, "task_level", ++task->level,
                             "timestamp", (double)real_ns / 1e9, type_key, type);
    if (status != NULL)
        json_object_set_new(json, "action_status", json_string(status));
    json_object_update(json, fields);
    json_decref(fields);
    char *line = json != NULL ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    size_t bytes = line != NULL ? strlen(line) : 0;
    char *grown = line != NULL ? realloc(task->lines, task->length + bytes + 2) : NULL;
    if (grown == NULL) {
        task->failed = true;
    } else {
        if (task->length != 0)
            grown[task->length++] = '\n';
        memcpy(grown + task->length, line, bytes + 1);
        task->length += bytes;
        task->lines = grown;
    }
    free(line);
}

static char *finish(struct task *task)
{
    if (!task->failed)
        return task->lines;
    free(task->lines);
    return NULL;
}

static struct task task_of(const char *id)
{
    struct task task = {0};
    identity_task(id, task.uuid);
    return task;
}

/* ---- sampled time by stack --------------------------------------------------------------------------- */

/* Time of one stack, ns. */
struct stack_time {
    uint32_t stack, samples;
    double wall[SAMPLE_STATES], cpu;
};

static int by_stack(const void *a, const void *b)
{
    const struct stack_time *x = a, *y = b;
    return x->stack < y->stack ? -1 : x->stack > y->stack;
}

/* Rows of the same stack become one. */
static uint32_t add_up(struct stack_time *row, uint32_t count)
{
    uint32_t used = 0;
    qsort(row, count, sizeof *row, by_stack);
    for (uint32_t i = 0; i < count; i++) {
        if (used == 0 || row[used - 1].stack != row[i].stack) {
            row[used++] = row[i];
            continue;
        }
        struct stack_time *sum = &row[used - 1];
        sum->samples += row[i].samples;
        sum->cpu += row[i].cpu;
        for (int state = 0; state < SAMPLE_STATES; state++)
            sum->wall[state] += row[i].wall[state];
    }
    return used;
}

/* Frames by number: each instruction once, in the order in which they are met. */
struct frames {
    json_t *list;
    json_t *number; /* instruction's id -> its place */
};

static json_t *frame_number(struct frames *frames, const struct merge *merge, uint32_t instruction)
{
    char key[12];
    snprintf(key, sizeof key, "%u", instruction);
    json_t *number = json_object_get(frames->number, key);
    if (number != NULL)
        return json_incref(number);
    number = json_integer((json_int_t)json_array_size(frames->list));
    json_array_append_new(frames->list, json_string(names_text(&merge->instructions, instruction)));
    json_object_set(frames->number, key, number);
    return number;
}

static json_t *stack_json(struct frames *frames, const struct merge *merge, uint32_t stack)
{
    json_t *places = json_array();
    for (uint32_t node = stack; node != 0 && json_array_size(places) < DEPTH_MOST;) {
        struct stack_node at = stacks_node(&merge->stacks, node);
        json_array_insert_new(places, 0, frame_number(frames, merge, at.instruction));
        node = at.parent;
    }
    return places;
}

/* {"unit", "columns", "frames", "stacks", "values"}; `scale` turns sampled ns into ns of what is told. */
static json_t *stacks_json(const struct merge *merge, const struct stack_time *row, uint32_t rows,
                           double scale)
{
    struct frames frames = {.list = json_array(), .number = json_object()};
    json_t *stacks = json_array(), *values = json_array();
    for (uint32_t i = 0; i < rows; i++) {
        json_array_append_new(stacks, stack_json(&frames, merge, row[i].stack));
        json_t *value = json_array();
        for (int state = 0; state < SAMPLE_STATES; state++)
            json_array_append_new(value, json_integer(whole_of(row[i].wall[state] * scale)));
        json_array_append_new(value, json_integer(whole_of(row[i].cpu * scale)));
        json_array_append_new(value, json_integer(row[i].samples));
        json_array_append_new(values, value);
    }
    json_decref(frames.number);
    return json_pack("{s:s,s:[s,s,s,s,s,s],s:o,s:o,s:o}", "unit", "nanoseconds", "columns", "cpu", "native",
                     "gil_wait", "blocked", "cpu_time", "samples", "frames", frames.list, "stacks", stacks,
                     "values", values);
}

static double wall_of(const struct stack_time *row)
{
    return row->wall[STATE_CPU] + row->wall[STATE_NATIVE] + row->wall[STATE_GIL_WAIT] +
           row->wall[STATE_BLOCKED];
}

static uint32_t leaf_of(const struct merge *merge, const struct stack_time *row)
{
    return row->stack != 0 ? stacks_node(&merge->stacks, row->stack).instruction : 0;
}

/* The instructions with the most time of their own, as text: "shop.py:charge:12 61.0%". Rows are worn out. */
static json_t *top_json(const struct merge *merge, struct stack_time *row, uint32_t rows)
{
    double total = 0;
    for (uint32_t i = 0; i < rows; i++) {
        row[i].wall[0] = wall_of(&row[i]);
        row[i].stack = leaf_of(merge, &row[i]);
        for (int state = 1; state < SAMPLE_STATES; state++)
            row[i].wall[state] = 0;
        total += row[i].wall[0];
    }
    rows = add_up(row, rows);
    json_t *top = json_array();
    for (int n = 0; n < TOP_MOST; n++) {
        uint32_t most = 0;
        for (uint32_t i = 1; i < rows; i++)
            if (row[i].wall[0] > row[most].wall[0])
                most = i;
        if (rows == 0 || row[most].wall[0] <= 0)
            break;
        json_array_append_new(top,
                              json_sprintf("%s %.1f%%", names_text(&merge->instructions, row[most].stack),
                                           100 * row[most].wall[0] / total));
        row[most].wall[0] = 0;
    }
    return top;
}

/* ---- one action -------------------------------------------------------------------------------------- */

static struct stack_time time_of(const struct held_sample *sample)
{
    struct stack_time time = {.stack = sample->stack, .samples = 1, .cpu = (double)sample->cpu_ns};
    time.wall[sample->state] = (double)sample->wall_ns;
    return time;
}

/* Samples and events, section by section: what was sampled between two events is one message. */
static void say_sections(struct task *task, const struct story *story, struct stack_time *row, double scale,
                         int64_t offset_ns)
{
    const struct action *root = &story->merge->actions.action[story->root];
    uint32_t at = 0;
    for (uint32_t e = 1; e <= story->events; e++) { /* the first is the root's own begin */
        const struct story_event *event = e < story->events ? &story->event[e] : NULL;
        uint32_t rows = 0;
        uint64_t last_ns = root->begin.time_ns;
        while (at < story->samples && (event == NULL || story->sample[at].time_ns < event->time_ns)) {
            last_ns = story->sample[at].time_ns;
            row[rows++] = time_of(&story->sample[at++]);
        }
        rows = add_up(row, rows);
        if (rows != 0)
            say(task, last_ns + (uint64_t)offset_ns, "message_type", "profilomatic:stacks", NULL,
                stacks_json(story->merge, row, rows, scale));
        if (event != NULL)
            say(task, event->time_ns + (uint64_t)offset_ns, "message_type", "profilomatic:logged", NULL,
                json_pack("{s:o}", "logged", story_message(story->merge, event)));
    }
}

static json_t *beginning(const char *kind, const char *id, const char *source, const char *type)
{
    return json_pack("{s:s,s:s,s:s,s:s,s:s}", "schema", "profilomatic/1", "kind", kind, "id", id, "source",
                     source, "profiled_action_type", type);
}

static void say_begin(struct task *task, const struct story *story, const char *id,
                      const struct origin *origin)
{
    static const char *const granularity[] = {"file", "method", "line"};
    const struct action *action = &story->merge->actions.action[story->root];
    const struct record_begin *begin = &action->begin;
    char uuid[UUID_TEXT_BYTES];
    json_t *exception, *level;
    identity_uuid_text(begin->task_uuid, uuid);
    story_of_root(story, &exception, &level);
    json_t *fields = beginning("action", id, origin->source, names_text(&story->merge->types, action->type));
    json_object_set_new(fields, "profiled_task_uuid", json_string(uuid));
    json_object_set_new(fields, "profiled_task_level", level != NULL ? level : json_array());
    json_object_set_new(fields, "pid", json_integer(origin->pid));
    json_object_set_new(fields, "thread_id", json_integer((json_int_t)begin->thread));
    json_object_set_new(fields, "weight", json_real(merge_weight(begin)));
    json_object_set_new(fields, "period_ns", json_integer((json_int_t)begin->interval_us * 1000));
    json_object_set_new(
        fields, "code_granularity",
        json_string(granularity[begin->granularity <= GRANULARITY_LINE ? begin->granularity : 0]));
    story_add_trace(story, fields);
    json_decref(exception);
    say(task, begin->time_ns + (uint64_t)origin->real_offset_ns, "action_type", "profilomatic:action",
        "started", fields);
}

static void say_end(struct task *task, const struct story *story, struct stack_time *row, int64_t offset_ns)
{
    const struct action *action = &story->merge->actions.action[story->root];
    json_t *exception, *level;
    for (uint32_t i = 0; i < story->samples; i++)
        row[i] = time_of(&story->sample[i]);
    story_of_root(story, &exception, &level);
    json_t *fields =
        json_pack("{s:s,s:f,s:f,s:I,s:o}", "profiled_action_status", story_status(action), "wall",
                  (double)action->end.latency_ns / 1e9, "cpu", (double)action->end.cpu_ns / 1e9, "samples",
                  (json_int_t)story->samples, "top", top_json(story->merge, row, story->samples));
    if (exception != NULL)
        json_object_set_new(fields, "profiled_exception", exception);
    json_decref(level);
    say(task, action->begin.time_ns + action->end.latency_ns + (uint64_t)offset_ns, "action_type",
        "profilomatic:action", "succeeded", fields);
}

char *eliot_action(const struct merge *merge, uint32_t root, const struct origin *origin)
{
    struct story story;
    if (!story_open(&story, merge, root))
        return NULL;
    char id[IDENTITY_BYTES], *lines = NULL;
    struct stack_time *row = malloc((story.samples + 1) * sizeof *row);
    if (row != NULL) {
        identity_action(origin, merge->actions.action[root].begin.action_serial, id);
        struct task task = task_of(id);
        double sampled = 0;
        for (uint32_t i = 0; i < story.samples; i++)
            sampled += (double)story.sample[i].wall_ns;
        double scale = sampled > 0 ? (double)merge->actions.action[root].end.latency_ns / sampled : 0;
        say_begin(&task, &story, id, origin);
        say_sections(&task, &story, row, scale, origin->real_offset_ns);
        say_end(&task, &story, row, origin->real_offset_ns);
        lines = finish(&task);
    }
    free(row);
    story_close(&story);
    return lines;
}

/* ---- windows ----------------------------------------------------------------------------------------- */

/* Sampled time of a type in a window; *total is all of it. */
static uint32_t time_of_cells(struct stack_time *row, const struct cell *cell, uint32_t cells, double *total)
{
    for (uint32_t i = 0; i < cells; i++) {
        row[i] = (struct stack_time){.stack = cell[i].stack, .samples = cell[i].samples, .cpu = cell[i].cpu};
        for (int state = 0; state < SAMPLE_STATES; state++)
            *total += row[i].wall[state] = cell[i].wall[state];
    }
    return add_up(row, cells);
}

static json_t *latency_json(const struct type_totals *totals, double wall)
{
    uint64_t max = totals->latency_max_ns;
    return json_pack("{s:f,s:f,s:f,s:f,s:f}", "mean", totals->count != 0 ? wall / (double)totals->count : 0.0,
                     "p50", histogram_quantile(&totals->histogram, 0.5, max) / 1e9, "p90",
                     histogram_quantile(&totals->histogram, 0.9, max) / 1e9, "p99",
                     histogram_quantile(&totals->histogram, 0.99, max) / 1e9, "max", (double)max / 1e9);
}

char *eliot_profile(const struct merge *merge, const struct window *window, const struct type_totals *totals,
                    const char *source)
{
    uint32_t cells;
    const char *type = names_text(&merge->types, totals->type);
    struct cell *cell = profile_cells_of(&window->profile, totals->type, &cells);
    struct stack_time *row = cell != NULL ? malloc((cells + 1) * sizeof *row) : NULL;
    char id[IDENTITY_BYTES], *lines = NULL;
    if (row != NULL) {
        identity_window(window, source, type, id);
        struct task task = task_of(id);
        double sampled = 0, wall_ns = (double)totals->latency_sum_ns;
        uint32_t rows = time_of_cells(row, cell, cells, &sampled);
        say(&task, window->start_real_ns, "action_type", "profilomatic:profile", "started",
            beginning("profile", id, source, type));
        if (rows != 0)
            say(&task, window->end_real_ns, "message_type", "profilomatic:stacks", NULL,
                stacks_json(merge, row, rows, sampled > 0 ? wall_ns / sampled : 0));
        say(&task, window->end_real_ns, "action_type", "profilomatic:profile", "succeeded",
            json_pack("{s:I,s:I,s:I,s:f,s:o,s:o}", "count", (json_int_t)totals->count, "errors",
                      (json_int_t)totals->errors, "profiled", (json_int_t)totals->profiled, "wall",
                      wall_ns / 1e9, "latency", latency_json(totals, wall_ns / 1e9), "top",
                      top_json(merge, row, rows)));
        lines = finish(&task);
    }
    free(row);
    free(cell);
    return lines;
}

char *eliot_status(const char *classic, const struct window *window, const char *source)
{
    json_t *facts = json_loads(classic, 0, NULL);
    char id[IDENTITY_BYTES];
    if (facts == NULL)
        return NULL;
    identity_window(window, source, "", id);
    struct task task = task_of(id);
    say(&task, window->start_real_ns, "action_type", "profilomatic:status", "started",
        json_pack("{s:s,s:s,s:s,s:s}", "schema", "profilomatic/1", "kind", "status", "id", id, "source",
                  source));
    json_object_del(facts, "kind");
    json_object_del(facts, "source");
    say(&task, window->end_real_ns, "action_type", "profilomatic:status", "succeeded", facts);
    return finish(&task);
}
