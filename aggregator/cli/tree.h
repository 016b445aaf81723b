/*
 * The call tree of one action in a report with stacks: checked once, then read by number.
 */
#ifndef AGGREGATOR_CLI_TREE_H
#define AGGREGATOR_CLI_TREE_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

/** Self values of a node, in seconds of the whole population; samples as taken. */
struct tree_node {
    int32_t parent; /* its index, always less than the node's own; -1: a root */
    const char *instruction;
    double samples, cpu, native, gil_wait, blocked, cpu_time;
};

struct tree {
    struct tree_node *node;
    size_t count;
};

/**
 * Read the tree of `action`, one of the actions of `report`, whose strings it refers to. An action without a
 * tree gives none. 0, or -errno with fault_text(): -EINVAL for one whose numbers do not hold together.
 */
int tree_read(struct tree *tree, const json_t *report, const json_t *action);

void tree_close(struct tree *tree);

/** Self wall time: the sum of the states. */
static inline double tree_wall(const struct tree_node *node)
{
    return node->cpu + node->native + node->gil_wait + node->blocked;
}

#endif
