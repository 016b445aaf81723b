/*
 * Tree: the call tree of one action type as the report's "tree" object, and the report's list of
 * instructions.
 */
#ifndef AGGREGATOR_ENCODE_TREE_H
#define AGGREGATOR_ENCODE_TREE_H

#include <jansson.h>
#include <stdint.h>

#include "aggregator/merge.h"
#include "aggregator/profile.h"

/** The instructions that trees mention, in the report's own numbers. */
struct tree_names {
    json_t *list;     /* "instructions" */
    uint32_t *number; /* by the pool's id: number + 1 */
    uint32_t room;
};

/** 0 or -ENOMEM. */
int tree_names_open(struct tree_names *names, const struct merge *merge);
void tree_names_close(struct tree_names *names);

/**
 * All stacks of a type's cells and what encloses them, ascending, so that parents come before children;
 * malloc'ed. NULL without memory.
 */
uint32_t *tree_stacks(const struct merge *merge, const struct cell *cell, uint32_t cells, uint32_t *count);

/** Where a stack stands in them. */
uint32_t tree_find(const uint32_t *stack, uint32_t count, uint32_t wanted);

/**
 * {"columns": [...], "nodes": [[parent, instruction, samples, cpu, native, gil_wait, blocked, cpu_time],
 * ...]} of the cells of a type; self values, `scale` turns sampled ns into seconds of the population. NULL
 * without memory.
 */
json_t *tree_build(struct tree_names *names, const struct merge *merge, const struct cell *cell,
                   uint32_t cells, double scale);

#endif
