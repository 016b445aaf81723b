/* Call trees of a report: see tree.h. */
#include "aggregator/cli/tree.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "shm/fault.h"

/* The columns by name, so that a report may have more of them, or in another order. */
static const char *const columns[] = {"parent", "instruction", "samples", "cpu",
                                      "native", "gil_wait",    "blocked", "cpu_time"};
enum {
    PARENT,
    INSTRUCTION,
    COLUMNS = sizeof columns / sizeof *columns,
};

static int find_columns(const json_t *names, size_t place[COLUMNS])
{
    for (unsigned c = 0; c < COLUMNS; c++) {
        size_t i;
        json_t *name;
        place[c] = SIZE_MAX;
        json_array_foreach(names, i, name)
        {
            if (json_is_string(name) && strcmp(json_string_value(name), columns[c]) == 0)
                place[c] = i;
        }
        if (place[c] == SIZE_MAX)
            return fault(EINVAL, "the report's tree has no column \"%s\"", columns[c]);
    }
    return 0;
}

static int read_node(struct tree_node *node, size_t index, const json_t *row, const size_t place[COLUMNS],
                     const json_t *instructions)
{
    double value[COLUMNS];
    for (unsigned c = 0; c < COLUMNS; c++) {
        value[c] = json_number_value(json_array_get(row, place[c])); /* 0 for what is no number */
        if (!isfinite(value[c]) || (c != PARENT && value[c] < 0))
            return fault(EINVAL, "the report is damaged: node %zu of a tree", index);
    }
    const char *instruction =
        value[INSTRUCTION] < (double)json_array_size(instructions)
            ? json_string_value(json_array_get(instructions, (size_t)value[INSTRUCTION]))
            : NULL;
    if (!json_is_array(row) || !(value[PARENT] >= -1 && value[PARENT] < (double)index) || index > INT32_MAX ||
        instruction == NULL)
        return fault(EINVAL, "the report is damaged: node %zu of a tree", index);
    *node = (struct tree_node){
        (int32_t)value[PARENT], instruction, value[2], value[3], value[4], value[5], value[6], value[7]};
    return 0;
}

int tree_read(struct tree *tree, const json_t *report, const json_t *action)
{
    size_t place[COLUMNS], i;
    json_t *row;
    const json_t *source = json_object_get(action, "tree"), *nodes = json_object_get(source, "nodes");
    *tree = (struct tree){0};
    if (json_array_size(nodes) == 0)
        return 0;
    int rc = find_columns(json_object_get(source, "columns"), place);
    if (rc != 0)
        return rc;
    tree->node = calloc(json_array_size(nodes), sizeof *tree->node);
    if (tree->node == NULL)
        return fault(ENOMEM, "tree of %zu nodes", json_array_size(nodes));
    json_array_foreach(nodes, i, row)
    {
        rc = read_node(&tree->node[i], i, row, place, json_object_get(report, "instructions"));
        if (rc != 0) {
            tree_close(tree);
            return rc;
        }
    }
    tree->count = i;
    return 0;
}

void tree_close(struct tree *tree)
{
    free(tree->node);
    *tree = (struct tree){0};
}
