/* Sampled time by instruction: see lines.h. */
#include "aggregator/encode/lines.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "shm/fault.h"

int lines_open(struct lines *lines, const struct merge *merge)
{
    memset(lines, 0, sizeof *lines);
    lines->merge = merge;
    lines->room = names_count(&merge->instructions);
    lines->line = calloc(lines->room, sizeof *lines->line);
    lines->used = calloc(lines->room, sizeof *lines->used);
    if (lines->line != NULL && lines->used != NULL)
        return 0;
    lines_close(lines);
    return fault(ENOMEM, "report");
}

void lines_close(struct lines *lines)
{
    free(lines->line);
    free(lines->used);
    memset(lines, 0, sizeof *lines);
}

static struct line *touch(struct lines *lines, uint32_t instruction)
{
    if (instruction >= lines->room)
        instruction = 0;
    struct line *line = &lines->line[instruction];
    if (!line->listed)
        lines->used[lines->used_count++] = instruction;
    line->listed = true;
    return line;
}

static void clear(struct lines *lines)
{
    for (uint32_t i = 0; i < lines->used_count; i++)
        memset(&lines->line[lines->used[i]], 0, sizeof *lines->line);
    lines->used_count = 0;
    lines->walk = 0;
    lines->slow_total = lines->typical_total = 0;
}

static void add_cell(struct lines *lines, const struct cell *cell, double runnable)
{
    const struct stacks *stacks = &lines->merge->stacks;
    uint32_t leaf = cell->stack != 0 ? stacks_node(stacks, cell->stack).instruction : 0;
    struct line *line = touch(lines, leaf);
    double total = 0;
    for (int state = 0; state < SAMPLE_STATES; state++) {
        double wall = cell->wall[state], waiting = 0;
        if (state == STATE_CPU || state == STATE_NATIVE)
            waiting = wall * runnable;
        line->self[state] += wall - waiting;
        line->self[LINE_RUNNABLE] += waiting;
        line->slow[state] += cell->slow[state];
        line->slow_total += cell->slow[state];
        lines->slow_total += cell->slow[state];
        total += wall;
    }
    line->self_total += total;
    line->typical += cell->typical;
    lines->typical_total += cell->typical;
    line->samples += cell->samples;
    profile_add_spread(&line->spread, &cell->spread);
    lines->walk++;
    if (cell->stack == 0) {
        line->time += total;
        profile_add_spread(&line->around, &cell->spread);
        line->seen = lines->walk;
        return;
    }
    for (uint32_t node = cell->stack; node != 0;) {
        struct stack_node at = stacks_node(stacks, node);
        line = touch(lines, at.instruction);
        if (line->seen != lines->walk) { /* a recursion counts once */
            line->time += total;
            profile_add_spread(&line->around, &cell->spread);
            line->seen = lines->walk;
        }
        node = at.parent;
    }
}

void lines_fill(struct lines *lines, const struct cell *cell, uint32_t cells, double runnable)
{
    clear(lines);
    for (uint32_t i = 0; i < cells; i++)
        add_cell(lines, &cell[i], runnable);
}

double lines_difference(const struct lines *lines, const struct line *line)
{
    double slow = lines->slow_total > 0 ? line->slow_total / lines->slow_total : 0;
    double typical = lines->typical_total > 0 ? line->typical / lines->typical_total : 0;
    return slow - typical;
}

static int order(double a, double b, const struct lines *lines, uint32_t i, uint32_t j)
{
    if (a != b)
        return a < b ? 1 : -1;
    return strcmp(names_text(&lines->merge->instructions, i), names_text(&lines->merge->instructions, j));
}

static int by_self(const void *a, const void *b, void *context)
{
    const struct lines *lines = context;
    uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
    return order(lines->line[i].self_total, lines->line[j].self_total, lines, i, j);
}

static int by_difference(const void *a, const void *b, void *context)
{
    const struct lines *lines = context;
    uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
    return order(lines_difference(lines, &lines->line[i]), lines_difference(lines, &lines->line[j]), lines, i,
                 j);
}

void lines_by_self(struct lines *lines)
{
    qsort_r(lines->used, lines->used_count, sizeof *lines->used, by_self, lines);
}

void lines_by_difference(struct lines *lines)
{
    qsort_r(lines->used, lines->used_count, sizeof *lines->used, by_difference, lines);
}

static const char *const state_name[LINE_STATES] = {"cpu", "native", "gil_wait", "blocked", "runnable"};

static int most_of(const double *of, int states)
{
    int most = 0;
    for (int state = 1; state < states; state++)
        if (of[state] > of[most])
            most = state;
    return most;
}

const char *lines_state(const double *of, int states)
{
    return state_name[most_of(of, states)];
}

const char *lines_self_state(const struct line *line)
{
    double running = line->self[STATE_CPU] + line->self[STATE_NATIVE], of[LINE_STATES];
    double longer = running > 0 ? 1 + line->self[LINE_RUNNABLE] / running : 1;
    memcpy(of, line->self, sizeof of);
    of[STATE_CPU] *= longer;
    of[STATE_NATIVE] *= longer;
    if (running > 0)
        of[LINE_RUNNABLE] = 0;
    int most = most_of(of, LINE_STATES);
    bool ran = most == STATE_CPU || most == STATE_NATIVE;
    return state_name[ran && line->self[LINE_RUNNABLE] > line->self[most] ? LINE_RUNNABLE : most];
}
