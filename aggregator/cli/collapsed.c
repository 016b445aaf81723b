/* Collapsed stacks: see collapsed.h. */
#include "aggregator/cli/collapsed.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "aggregator/cli/tree.h"
#include "shm/fault.h"

static void put_name(FILE *out, const char *name)
{
    for (; *name != '\0'; name++)
        putc(*name == ';' ? ',' : iscntrl((unsigned char)*name) ? ' ' : *name, out);
}

static long long value_of(const struct tree_node *node, enum collapsed_unit unit)
{
    switch (unit) {
    case COLLAPSED_SAMPLES:
        return llround(node->samples);
    case COLLAPSED_CPU:
        return llround(node->cpu_time * 1e6);
    default:
        return llround(tree_wall(node) * 1e6);
    }
}

/* `path` has room for all nodes of the tree. */
static long write_tree(FILE *out, const char *type, const struct tree *tree, enum collapsed_unit unit,
                       int32_t *path)
{
    long lines = 0;
    for (size_t i = 0; i < tree->count; i++) {
        long long value = value_of(&tree->node[i], unit);
        size_t depth = 0;
        if (value <= 0)
            continue;
        for (int32_t at = (int32_t)i; at >= 0; at = tree->node[at].parent)
            path[depth++] = at;
        put_name(out, type);
        while (depth-- > 0) {
            putc(';', out);
            put_name(out, tree->node[path[depth]].instruction);
        }
        fprintf(out, " %lld\n", value);
        lines++;
    }
    return lines;
}

long collapsed_write(FILE *out, const json_t *report, enum collapsed_unit unit)
{
    long lines = 0;
    size_t i;
    json_t *action;
    json_array_foreach(json_object_get(report, "actions"), i, action)
    {
        const char *type = json_string_value(json_object_get(action, "action_type"));
        struct tree tree;
        int rc = tree_read(&tree, report, action);
        if (rc != 0)
            return fault_in(rc, "action %s", type == NULL ? "?" : type);
        int32_t *path = calloc(tree.count + 1, sizeof *path);
        if (path == NULL) {
            tree_close(&tree);
            return fault(ENOMEM, "stacks of %s", type == NULL ? "?" : type);
        }
        lines += write_tree(out, type == NULL ? "?" : type, &tree, unit, path);
        free(path);
        tree_close(&tree);
    }
    return lines;
}
