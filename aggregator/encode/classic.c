/* Classic messages: see classic.h. */
#include "aggregator/encode/classic.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "aggregator/encode/instant.h"
#include "aggregator/encode/json_text.h"
#include "aggregator/encode/story.h"
#include "aggregator/encode/tree.h"
#include "aggregator/encode/whole.h"

enum {
    DEPTH_MOST = 512, /* frames that are told of a stack: readers of nested JSON are limited too */
};

/* The instruction of messages of an action that no sample was taken of. */
#define NOT_SAMPLED UINT32_MAX

/* A piece of the call tree: a frame over a stretch of time, or a message at a point of it. */
struct piece {
    uint32_t parent; /* index + 1, 0: the root */
    uint32_t instruction;
    uint32_t message;  /* event + 1, 0: none */
    double time, self; /* sampled ns */
    double start, end; /* sampled ns since the first sample */
};

struct builder {
    const struct story *story;
    const struct merge *merge;
    struct piece *piece;
    uint32_t pieces, room;
    uint32_t told;                                             /* of the story's events */
    uint32_t path[DEPTH_MOST], instruction[DEPTH_MOST], depth; /* of the last sample: pieces, root first */
    double total;
    bool failed;
};

static uint32_t add_piece(struct builder *builder, uint32_t parent, uint32_t instruction)
{
    if (builder->pieces == builder->room) {
        uint32_t room = builder->room == 0 ? 64 : builder->room * 2;
        struct piece *grown = realloc(builder->piece, room * sizeof *grown);
        if (grown == NULL) {
            builder->failed = true;
            return 0;
        }
        builder->piece = grown;
        builder->room = room;
    }
    builder->piece[builder->pieces] = (struct piece){
        .parent = parent, .instruction = instruction, .start = builder->total, .end = builder->total};
    return builder->pieces++;
}

/* The next messages, which have no frame of their own to stand at: points of no duration. */
static void tell_events(struct builder *builder, uint32_t parent, uint32_t instruction, uint32_t count)
{
    for (uint32_t i = 0; i < count && !builder->failed; i++) {
        uint32_t at = add_piece(builder, parent, instruction);
        if (!builder->failed)
            builder->piece[at].message = ++builder->told;
    }
}

static uint32_t due_events(const struct builder *builder, uint64_t time_ns)
{
    uint32_t due = 0;
    while (builder->told + due < builder->story->events &&
           builder->story->event[builder->told + due].time_ns <= time_ns)
        due++;
    return due;
}

/* How many frames before and after the due messages are the same: what ran before a message and after it stay
 * apart, in the frame that logged it and below, or where that is not known in the leaf. */
static uint32_t split_at(const struct builder *builder, uint32_t due, uint32_t common, uint32_t depth)
{
    uint32_t level = depth - 1;
    for (uint32_t i = 0; i < due; i++) {
        const struct held_message *text = builder->story->event[builder->told + i].text;
        if (text != NULL && text->depth != 0 && text->depth - 1 < level)
            level = text->depth - 1;
    }
    return common < level ? common : level;
}

static uint32_t frames_of(const struct merge *merge, uint32_t stack, uint32_t out[DEPTH_MOST])
{
    uint32_t depth = 0, leaf = stack;
    for (uint32_t node = stack; node != 0; node = stacks_node(&merge->stacks, node).parent)
        depth++;
    for (uint32_t i = depth; i-- > 0;) {
        struct stack_node node = stacks_node(&merge->stacks, leaf);
        if (i < DEPTH_MOST)
            out[i] = node.instruction;
        leaf = node.parent;
    }
    return depth < DEPTH_MOST ? depth : DEPTH_MOST;
}

static void add_sample(struct builder *builder, const struct held_sample *sample)
{
    uint32_t frame[DEPTH_MOST], depth = frames_of(builder->merge, sample->stack, frame), common = 0;
    if (depth == 0)
        return;
    while (common < depth && common < builder->depth && builder->instruction[common] == frame[common])
        common++;
    uint32_t due = due_events(builder, sample->time_ns);
    if (due != 0)
        common = split_at(builder, due, common, depth);
    uint32_t parent = common != 0 ? builder->path[common - 1] + 1 : 0;
    if (due > 1)
        tell_events(builder, parent, frame[common], due - 1);
    for (uint32_t i = common; i < depth; i++) {
        uint32_t at = add_piece(builder, parent, frame[i]);
        if (builder->failed)
            return;
        if (i == common && due != 0)
            builder->piece[at].message = ++builder->told;
        builder->path[i] = at;
        builder->instruction[i] = frame[i];
        parent = at + 1;
    }
    builder->depth = depth;
    builder->total += (double)sample->wall_ns;
    for (uint32_t i = 0; i < depth; i++) {
        struct piece *piece = &builder->piece[builder->path[i]];
        piece->time += (double)sample->wall_ns;
        piece->end = builder->total;
    }
    builder->piece[builder->path[depth - 1]].self += (double)sample->wall_ns;
}

/* ---- JSON -------------------------------------------------------------------------------------------- */

/* Up to its children, which may follow. */
static void put_piece(struct json_text *json, const struct builder *builder, const struct piece *piece,
                      double scale, uint64_t begin_real_ns)
{
    json_text_put(json, "{\"instruction\":");
    json_text_string(json, piece->instruction == NOT_SAMPLED
                               ? "(not sampled)"
                               : names_text(&builder->merge->instructions, piece->instruction));
    json_text_put(json, ",\"time\":");
    json_text_seconds(json, whole_of(piece->time * scale));
    json_text_put(json, ",\"self_time\":");
    json_text_seconds(json, whole_of(piece->self * scale));
    json_text_put(json, ",\"start_time\":");
    json_text_instant(json, begin_real_ns + (uint64_t)whole_of(piece->start * scale));
    json_text_put(json, ",\"end_time\":");
    json_text_instant(json, begin_real_ns + (uint64_t)whole_of(piece->end * scale));
    if (piece->message != 0) {
        json_text_put(json, ",\"message\":");
        json_text_value(json, story_message(builder->merge, &builder->story->event[piece->message - 1]));
    }
    json_text_put(json, ",\"children\":[");
}

/* All pieces, each within its parent: that is the one before it, or one that is still open around that
 * (add_sample begins where the last sample's path goes on, tell_events above its end). */
static void put_children(struct json_text *json, const struct builder *builder, double scale,
                         uint64_t begin_real_ns)
{
    uint32_t open = 0; /* the innermost open piece, + 1 */
    json_text_put(json, "[");
    for (uint32_t i = 0; i < builder->pieces && !json->failed; i++) {
        const struct piece *piece = &builder->piece[i];
        bool first = open == piece->parent; /* nothing was closed in it yet */
        for (; open != piece->parent && open != 0; open = builder->piece[open - 1].parent)
            json_text_put(json, "]}");
        json->failed |= open != piece->parent;
        if (!first)
            json_text_put(json, ",");
        put_piece(json, builder, piece, scale, begin_real_ns);
        open = i + 1;
    }
    for (; open != 0; open = builder->piece[open - 1].parent)
        json_text_put(json, "]}");
    json_text_put(json, "]");
}

/* All but its children. */
static json_t *action_json(const struct builder *builder, uint32_t root, const struct origin *origin)
{
    static const char *const granularity[] = {"file", "method", "line"};
    const struct merge *merge = builder->merge;
    const struct action *action = &merge->actions.action[root];
    uint64_t begin_real_ns = action->begin.time_ns + (uint64_t)origin->real_offset_ns;
    double latency = (double)action->end.latency_ns;
    char uuid[UUID_TEXT_BYTES], id[IDENTITY_BYTES];
    identity_uuid_text(action->begin.task_uuid, uuid);
    identity_action(origin, action->begin.action_serial, id);
    json_t *json = json_pack("{s:s,s:s,s:s,s:s,s:I,s:o,s:o,s:f,s:f}", "kind", "action", "id", id, "source",
                             origin->source, "task_uuid", uuid, "thread", (json_int_t)action->begin.thread,
                             "start_time", instant_json(begin_real_ns), "end_time",
                             instant_json(begin_real_ns + action->end.latency_ns), "time", latency / 1e9,
                             "self_time", builder->total > 0 ? 0.0 : latency / 1e9);
    json_object_set_new(json, "action_type", json_string(names_text(&merge->types, action->type)));
    json_object_set_new(json, "action_status", json_string(story_status(action)));
    json_object_set_new(json, "pid", json_integer(origin->pid));
    json_object_set_new(json, "weight", json_real(merge_weight(&action->begin)));
    json_object_set_new(json, "interval", json_real((double)action->begin.interval_us / 1e6));
    json_object_set_new(
        json, "code_granularity",
        json_string(
            granularity[action->begin.granularity <= GRANULARITY_LINE ? action->begin.granularity : 0]));
    json_object_set_new(json, "cpu_time", json_real((double)action->end.cpu_ns / 1e9));
    json_t *exception, *task_level;
    story_of_root(builder->story, &exception, &task_level);
    if (exception != NULL)
        json_object_set_new(json, "exception", exception);
    if (task_level != NULL)
        json_object_set_new(json, "task_level", task_level);
    story_add_trace(builder->story, json);
    return json;
}

static char *action_text(const struct builder *builder, uint32_t root, const struct origin *origin)
{
    const struct action *action = &builder->merge->actions.action[root];
    double scale = builder->total > 0 ? (double)action->end.latency_ns / builder->total : 0;
    struct json_text json = {0};
    json_text_value(&json, action_json(builder, root, origin));
    if (!json.failed)
        json.used--; /* its closing brace */
    json_text_put(&json, ",\"children\":");
    put_children(&json, builder, scale, action->begin.time_ns + (uint64_t)origin->real_offset_ns);
    json_text_put(&json, "}");
    return json_text_end(&json);
}

char *classic_action(const struct merge *merge, uint32_t root, const struct origin *origin)
{
    struct story story;
    if (!story_open(&story, merge, root))
        return NULL;
    struct builder builder = {.story = &story, .merge = merge};
    for (uint32_t i = 0; i < story.samples && !builder.failed; i++)
        add_sample(&builder, &story.sample[i]);
    if (builder.depth != 0 || merge->actions.action[root].messages.count != 0)
        tell_events(&builder, 0, builder.depth != 0 ? builder.instruction[0] : NOT_SAMPLED,
                    story.events - builder.told);
    char *line = builder.failed ? NULL : action_text(&builder, root, origin);
    free(builder.piece);
    story_close(&story);
    return line;
}

/* ---- merged profiles --------------------------------------------------------------------------------- */

/* The stacks of a type as nested children; `scale` turns sampled ns into seconds. */
static json_t *merged_children(const struct merge *merge, const struct cell *cell, uint32_t cells,
                               double scale)
{
    uint32_t count = 0, *stack = tree_stacks(merge, cell, cells, &count);
    double *self = calloc(count + 1, sizeof *self), *time = calloc(count + 1, sizeof *time);
    json_t **made = calloc(count + 1, sizeof *made), *top = json_array();
    if (stack == NULL || self == NULL || time == NULL || made == NULL)
        count = cells = 0;
    for (uint32_t i = 0; i < cells; i++)
        for (int state = 0; state < SAMPLE_STATES && cell[i].stack != 0; state++)
            self[tree_find(stack, count, cell[i].stack)] += cell[i].wall[state] * scale;
    for (uint32_t i = count; i-- > 0;) {
        time[i] += self[i];
        uint32_t parent = stacks_node(&merge->stacks, stack[i]).parent;
        if (parent != 0)
            time[tree_find(stack, count, parent)] += time[i];
    }
    for (uint32_t i = 0; i < count; i++) {
        struct stack_node node = stacks_node(&merge->stacks, stack[i]);
        made[i] =
            json_pack("{s:s,s:f,s:f,s:[]}", "instruction", names_text(&merge->instructions, node.instruction),
                      "time", time[i], "self_time", self[i], "children");
        json_t *parent =
            node.parent == 0 ? top : json_object_get(made[tree_find(stack, count, node.parent)], "children");
        json_array_append_new(parent, made[i]);
    }
    free(stack);
    free(self);
    free(time);
    free(made);
    return top;
}

char *classic_profile(const struct merge *merge, const struct window *window,
                      const struct type_totals *totals, const char *source)
{
    uint32_t cells;
    struct cell *cell = profile_cells_of(&window->profile, totals->type, &cells);
    if (cell == NULL)
        return NULL;
    double sampled = 0, wall = (double)totals->latency_sum_ns / 1e9;
    for (uint32_t i = 0; i < cells; i++)
        for (int state = 0; state < SAMPLE_STATES; state++)
            sampled += cell[i].wall[state];
    double scale = sampled > 0 ? wall / sampled : 0;
    uint64_t max = totals->latency_max_ns;
    char id[IDENTITY_BYTES];
    identity_window(window, source, names_text(&merge->types, totals->type), id);
    json_t *json = json_pack("{s:s,s:s,s:s,s:s,s:o,s:o,s:f,s:f}", "kind", "profile", "id", id, "source",
                             source, "action_type", names_text(&merge->types, totals->type), "window_start",
                             instant_json(window->start_real_ns), "window_end",
                             instant_json(window->end_real_ns), "time", wall, "self_time", 0.0);
    json_object_set_new(json, "count", json_integer((json_int_t)totals->count));
    json_object_set_new(json, "errors", json_integer((json_int_t)totals->errors));
    json_object_set_new(json, "profiled", json_integer((json_int_t)totals->profiled));
    json_object_set_new(
        json, "latency",
        json_pack("{s:f,s:f,s:f,s:f,s:f}", "mean", totals->count != 0 ? wall / (double)totals->count : 0.0,
                  "p50", histogram_quantile(&totals->histogram, 0.5, max) / 1e9, "p90",
                  histogram_quantile(&totals->histogram, 0.9, max) / 1e9, "p99",
                  histogram_quantile(&totals->histogram, 0.99, max) / 1e9, "max", (double)max / 1e9));
    json_object_set_new(json, "children", merged_children(merge, cell, cells, scale));
    char *line = json_dumps(json, JSON_COMPACT);
    json_decref(json);
    free(cell);
    return line;
}
