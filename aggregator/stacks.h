/*
 * Stacks: the trie of all stacks that a pool has shown, shared by its workers, types and windows.
 *
 * A node is a stack: its parent's plus one instruction at the leaf. Node 0 is the empty stack. A parent's id
 * is always smaller than its child's, so every walk ends. A worker's own nodes are translated once, when they
 * are defined; from then on a sample costs one number, however deep its stack.
 *
 * Like names, nodes are never removed and never move, and may be read by any thread while one adds. Past the
 * bound a new stack becomes its longest known root side, counted in `folded`.
 */
#ifndef AGGREGATOR_STACKS_H
#define AGGREGATOR_STACKS_H

#include <stdatomic.h>
#include <stdint.h>

enum {
    STACKS_CHUNK = 4096,
    STACKS_CHUNKS = 128,
    STACKS_MOST = STACKS_CHUNK * STACKS_CHUNKS,
};

struct stack_node {
    uint32_t parent;
    uint32_t instruction; /* a name's id */
};

struct stacks {
    uint32_t most;
    uint64_t folded;
    _Atomic uint32_t count;
    struct stack_node *chunk[STACKS_CHUNKS];
    uint32_t *slots; /* open addressing: node, 0 = free */
    uint32_t slot_mask;
};

/** Start with the empty stack. At most STACKS_MOST nodes. 0 or -ENOMEM. */
int stacks_open(struct stacks *stacks, uint32_t most);

void stacks_close(struct stacks *stacks);

/** The node of `parent` (must exist) plus `instruction`; `parent` itself if there is no room. One thread. */
uint32_t stacks_child(struct stacks *stacks, uint32_t parent, uint32_t instruction);

/** How many nodes there are. Any thread. */
static inline uint32_t stacks_count(const struct stacks *stacks)
{
    return atomic_load_explicit(&stacks->count, memory_order_acquire);
}

/** A node below stacks_count(). Any thread. */
static inline struct stack_node stacks_node(const struct stacks *stacks, uint32_t node)
{
    return stacks->chunk[node / STACKS_CHUNK][node % STACKS_CHUNK];
}

#endif
