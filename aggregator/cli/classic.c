/* Classic messages of merged profiles: see classic.h. */
#include "aggregator/cli/classic.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "aggregator/cli/tree.h"
#include "shm/fault.h"

/*
 * A profile belongs to no task, but the tools store messages by task: it gets a UUID of its own that is the
 * same each time the same report is converted (two FNV-1a hashes, with the bits of a version 8 UUID).
 */
static void name_profile(char out[37], const char *source, const char *start, const char *type)
{
    const char *parts[] = {source, start, type};
    uint64_t hash[2] = {UINT64_C(0xcbf29ce484222325), UINT64_C(0x84222325cbf29ce4)};
    for (unsigned p = 0; p < 3; p++)
        for (const char *c = parts[p];; c++) {
            hash[0] = (hash[0] ^ (uint8_t)*c) * UINT64_C(0x100000001b3);
            hash[1] = (hash[1] ^ (uint8_t) ~*c) * UINT64_C(0x100000001b3);
            if (*c == '\0')
                break;
        }
    snprintf(out, 37, "%08x-%04x-8%03x-%04x-%012llx", (uint32_t)(hash[0] >> 32),
             (uint32_t)(hash[0] >> 16) & 0xffff, (uint32_t)hash[0] & 0xfff,
             0x8000 | ((uint32_t)(hash[1] >> 48) & 0x3fff),
             (unsigned long long)(hash[1] & UINT64_C(0xffffffffffff)));
}

static const char *text_or(const json_t *object, const char *key, const char *otherwise)
{
    const char *value = json_string_value(json_object_get(object, key));
    return value == NULL ? otherwise : value;
}

/* The nodes as nested objects under `root`. Children come after their parent, so one pass links them all. */
static int hang_tree(json_t *root, const struct tree *tree, const char *start, const char *end)
{
    int rc = 0;
    double *inclusive = calloc(tree->count + 1, sizeof *inclusive);
    json_t **children = calloc(tree->count + 1, sizeof *children);
    if (inclusive == NULL || children == NULL)
        rc = fault(ENOMEM, "a tree of %zu nodes", tree->count);
    for (size_t i = tree->count; rc == 0 && i-- > 0;) {
        inclusive[i] += tree_wall(&tree->node[i]);
        if (tree->node[i].parent >= 0)
            inclusive[tree->node[i].parent] += inclusive[i];
    }
    for (size_t i = 0; rc == 0 && i < tree->count; i++) {
        const struct tree_node *node = &tree->node[i];
        children[i] = json_array(); /* borrowed: the object below owns it */
        json_t *object = json_pack("{s:s, s:f, s:f, s:s, s:s, s:o}", "instruction", node->instruction, "time",
                                   inclusive[i], "self_time", tree_wall(node), "start_time", start,
                                   "end_time", end, "children", children[i]);
        json_t *siblings = node->parent >= 0 ? children[node->parent] : json_object_get(root, "children");
        if (object == NULL || json_array_append_new(siblings, object) != 0)
            rc = fault(ENOMEM, "a tree of %zu nodes", tree->count);
    }
    free(inclusive);
    free(children);
    return rc;
}

static double sampled_wall(const struct tree *tree)
{
    double sum = 0;
    for (size_t i = 0; i < tree->count; i++)
        sum += tree_wall(&tree->node[i]);
    return sum;
}

static int write_action(FILE *out, const json_t *report, const json_t *action)
{
    const json_t *window = json_object_get(report, "window");
    const char *source = text_or(report, "source", ""), *type = text_or(action, "action_type", "(unnamed)");
    const char *start = text_or(window, "start", ""), *end = text_or(window, "end", "");
    double wall = json_number_value(json_object_get(action, "wall"));
    char uuid[37];
    struct tree tree;
    int rc = tree_read(&tree, report, action);
    if (rc != 0)
        return fault_in(rc, "action %s", type);
    name_profile(uuid, source, start, type);
    double rest = wall - sampled_wall(&tree);
    json_t *root =
        json_pack("{s:s, s:s, s:s, s:i, s:s, s:s, s:f, s:f, s:[], s:s, s:s, s:s, s:O?, s:O?, s:O?, s:O?}",
                  "kind", "profile", "source", source, "task_uuid", uuid, "thread", 0, "start_time", start,
                  "end_time", end, "time", wall, "self_time", rest > 0 ? rest : 0.0, "children",
                  "action_type", type, "window_start", start, "window_end", end, "count",
                  json_object_get(action, "count"), "errors", json_object_get(action, "errors"), "profiled",
                  json_object_get(action, "profiled"), "latency", json_object_get(action, "latency"));
    rc = root == NULL ? fault(ENOMEM, "action %s", type) : hang_tree(root, &tree, start, end);
    if (rc == 0 &&
        (json_dumpf(root, out, JSON_COMPACT | JSON_REAL_PRECISION(12)) != 0 || putc('\n', out) == EOF))
        rc = fault(errno, "cannot write");
    json_decref(root);
    tree_close(&tree);
    return rc;
}

long classic_write(FILE *out, const json_t *report)
{
    long lines = 0;
    size_t i;
    json_t *action;
    json_array_foreach(json_object_get(report, "actions"), i, action)
    {
        int rc = write_action(out, report, action);
        if (rc != 0)
            return rc;
        lines++;
    }
    return lines;
}
