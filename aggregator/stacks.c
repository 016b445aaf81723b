/* The trie of stacks: see stacks.h. */
#include "aggregator/stacks.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "shm/fault.h"

static uint32_t hash_of(uint32_t parent, uint32_t instruction)
{
    uint64_t h = ((uint64_t)parent << 32 | instruction) * UINT64_C(0x9e3779b97f4a7c15);
    return (uint32_t)(h >> 32);
}

static bool grow_slots(struct stacks *stacks)
{
    uint32_t slots = (stacks->slot_mask + 1) * 2;
    uint32_t *fresh = calloc(slots, sizeof *fresh);
    if (fresh == NULL)
        return false;
    for (uint32_t id = 1; id < stacks_count(stacks); id++) {
        struct stack_node node = stacks_node(stacks, id);
        uint32_t at = hash_of(node.parent, node.instruction) & (slots - 1);
        while (fresh[at] != 0)
            at = (at + 1) & (slots - 1);
        fresh[at] = id;
    }
    free(stacks->slots);
    stacks->slots = fresh;
    stacks->slot_mask = slots - 1;
    return true;
}

int stacks_open(struct stacks *stacks, uint32_t most)
{
    memset(stacks, 0, sizeof *stacks);
    stacks->most = most < STACKS_MOST ? most : STACKS_MOST;
    stacks->slot_mask = 1023;
    stacks->slots = calloc(stacks->slot_mask + 1, sizeof *stacks->slots);
    stacks->chunk[0] = calloc(STACKS_CHUNK, sizeof **stacks->chunk);
    if (stacks->slots == NULL || stacks->chunk[0] == NULL) {
        stacks_close(stacks);
        return fault(ENOMEM, "stacks");
    }
    atomic_store_explicit(&stacks->count, 1, memory_order_release);
    return 0;
}

void stacks_close(struct stacks *stacks)
{
    for (int i = 0; i < STACKS_CHUNKS; i++)
        free(stacks->chunk[i]);
    free(stacks->slots);
    memset(stacks, 0, sizeof *stacks);
}

uint32_t stacks_child(struct stacks *stacks, uint32_t parent, uint32_t instruction)
{
    uint32_t slot = hash_of(parent, instruction) & stacks->slot_mask;
    for (; stacks->slots[slot] != 0; slot = (slot + 1) & stacks->slot_mask) {
        struct stack_node node = stacks_node(stacks, stacks->slots[slot]);
        if (node.parent == parent && node.instruction == instruction)
            return stacks->slots[slot];
    }
    uint32_t id = stacks_count(stacks);
    struct stack_node **chunk = id < stacks->most ? &stacks->chunk[id / STACKS_CHUNK] : NULL;
    if (chunk == NULL || (*chunk == NULL && (*chunk = calloc(STACKS_CHUNK, sizeof **chunk)) == NULL)) {
        stacks->folded++;
        return parent;
    }
    (*chunk)[id % STACKS_CHUNK] = (struct stack_node){parent, instruction};
    stacks->slots[slot] = id;
    /* Pairs with the acquire in stacks_count. */
    atomic_store_explicit(&stacks->count, id + 1, memory_order_release);
    if ((uint64_t)(id + 1) * 2 > stacks->slot_mask && !grow_slots(stacks) && id + 2 > stacks->slot_mask)
        stacks->most = id + 1;
    return id;
}
