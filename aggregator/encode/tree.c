/* A type's call tree as JSON: see tree.h. */
#include "aggregator/encode/tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "shm/fault.h"

int tree_names_open(struct tree_names *names, const struct merge *merge)
{
    names->room = names_count(&merge->instructions);
    names->number = calloc(names->room, sizeof *names->number);
    names->list = json_array();
    if (names->number != NULL && names->list != NULL)
        return 0;
    tree_names_close(names);
    return fault(ENOMEM, "report");
}

void tree_names_close(struct tree_names *names)
{
    free(names->number);
    json_decref(names->list);
    memset(names, 0, sizeof *names);
}

static uint32_t number_of(struct tree_names *names, const struct merge *merge, uint32_t instruction)
{
    if (instruction >= names->room)
        instruction = 0;
    if (names->number[instruction] == 0) {
        json_array_append_new(names->list, json_string(names_text(&merge->instructions, instruction)));
        names->number[instruction] = (uint32_t)json_array_size(names->list);
    }
    return names->number[instruction] - 1;
}

static int by_number(const void *a, const void *b)
{
    uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
    return i < j ? -1 : i > j;
}

static int by_stack(const void *a, const void *b, void *context)
{
    const struct cell *cell = context;
    uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
    return cell[i].stack < cell[j].stack ? -1 : cell[i].stack > cell[j].stack;
}

uint32_t *tree_stacks(const struct merge *merge, const struct cell *cell, uint32_t cells, uint32_t *count)
{
    size_t room = 0, used = 0, unique = 0;
    for (uint32_t i = 0; i < cells; i++)
        for (uint32_t node = cell[i].stack; node != 0; node = stacks_node(&merge->stacks, node).parent)
            room++;
    uint32_t *stack = malloc((room + 1) * sizeof *stack);
    if (stack == NULL)
        return NULL;
    for (uint32_t i = 0; i < cells; i++)
        for (uint32_t node = cell[i].stack; node != 0; node = stacks_node(&merge->stacks, node).parent)
            stack[used++] = node;
    qsort(stack, used, sizeof *stack, by_number);
    for (size_t i = 0; i < used; i++)
        if (unique == 0 || stack[unique - 1] != stack[i])
            stack[unique++] = stack[i];
    *count = (uint32_t)unique;
    return stack;
}

uint32_t tree_find(const uint32_t *stack, uint32_t count, uint32_t wanted)
{
    const uint32_t *at = bsearch(&wanted, stack, count, sizeof *stack, by_number);
    return (uint32_t)(at - stack);
}

static json_t *node_json(const struct cell *cell, int64_t parent, uint32_t instruction, double scale)
{
    static const struct cell nothing;
    if (cell == NULL)
        cell = &nothing;
    return json_pack("[I,I,I,f,f,f,f,f]", (json_int_t)parent, (json_int_t)instruction,
                     (json_int_t)cell->samples, cell->wall[STATE_CPU] * scale,
                     cell->wall[STATE_NATIVE] * scale, cell->wall[STATE_GIL_WAIT] * scale,
                     cell->wall[STATE_BLOCKED] * scale, cell->cpu * scale);
}

json_t *tree_build(struct tree_names *names, const struct merge *merge, const struct cell *cell,
                   uint32_t cells, double scale)
{
    uint32_t count = 0;
    uint32_t *stack = tree_stacks(merge, cell, cells, &count);
    uint32_t *order = malloc((cells + 1) * sizeof *order);
    json_t *nodes = json_array();
    if (stack == NULL || order == NULL || nodes == NULL) {
        free(stack);
        free(order);
        json_decref(nodes);
        return NULL;
    }
    for (uint32_t i = 0; i < cells; i++)
        order[i] = i;
    qsort_r(order, cells, sizeof *order, by_stack, (void *)(uintptr_t)cell);
    uint32_t next = 0;
    for (; next < cells && cell[order[next]].stack == 0; next++) /* what found no stack of its own */
        json_array_append_new(nodes, node_json(&cell[order[next]], -1, number_of(names, merge, 0), scale));
    size_t first = json_array_size(nodes);
    for (uint32_t i = 0; i < count; i++) {
        struct stack_node node = stacks_node(&merge->stacks, stack[i]);
        int64_t parent = -1;
        if (node.parent != 0)
            parent = (int64_t)first + tree_find(stack, i, node.parent);
        const struct cell *own = NULL;
        if (next < cells && cell[order[next]].stack == stack[i])
            own = &cell[order[next++]];
        json_array_append_new(nodes,
                              node_json(own, parent, number_of(names, merge, node.instruction), scale));
    }
    free(stack);
    free(order);
    return json_pack("{s:[s,s,s,s,s,s,s,s],s:o}", "columns", "parent", "instruction", "samples", "cpu",
                     "native", "gil_wait", "blocked", "cpu_time", "nodes", nodes);
}
