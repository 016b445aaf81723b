/*
 * Stacks: the trie of every stack seen in this segment, with fixed memory.
 *
 * A stack is the id of its leaf's node; a node is (caller's node, code, line). Nodes, codes and file names
 * are defined in the sampler's definition area the first time they are used, always before the sample that
 * needs them. Where the area or the trie is full, a stack is folded to the part of it that is known, and the
 * caller is told, so that the worker can go on in a fresh segment. Sampler thread only, but for
 * stacks_add_roots.
 */
#ifndef RUNTIME_STACKS_H
#define RUNTIME_STACKS_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/cpython/reader.h"
#include "shm/segment.h"

enum {
    STACK_MEMORY = 256,
    STACK_RECENT = 32, /* a power of two */
};

/**
 * What a thread's stacks were lately. Zeroed at first. Most of the next one is the same from the root on;
 * what differs near the leaf is mostly one of a few ways that a loop goes round. Both are found here, in
 * memory that is read anyway, without a look into the trie and at the line table.
 */
struct stack_memory {
    uint32_t count;
    uint32_t epoch;
    struct stack_recent {
        const struct code *code;
        uint32_t instruction;
        uint32_t parent; /* node of the caller */
        uint32_t node;   /* 0: nothing */
    } recent[STACK_RECENT];
    struct {
        const struct code *code;
        uint32_t instruction;
        uint32_t node;
    } frame[STACK_MEMORY]; /* the previous stack, root first */
};

/** Reserve the memory (once a process). 0 or -ENOMEM with fault_text(). */
int stacks_open(void);

/**
 * Folders to take off the front of file names, longest match first: `count` zero-terminated paths (copied;
 * those that are known already and those beyond a bound are dropped). GIL held; the sampler may run.
 */
void stacks_add_roots(const char *const *paths, int count);

/** Start afresh: another segment, or the child of a fork. */
void stacks_reset(void);

/** Code entries may have been freed: forget what refers to them. */
void stacks_forget_codes(void);

/**
 * The node of `stack` (count > 0), at `granularity` (enum granularity). `*overflow` is set if the stack had
 * to be folded. 0 if not even its root could be defined.
 */
uint32_t stacks_intern(struct segment *segment, const struct stack *stack, uint32_t granularity,
                       struct stack_memory *memory, bool *overflow);

#endif
