/*
 * Symbols: what one worker's definition areas say, translated into the pool's numbers as it is read.
 *
 * The bytes come from another process: every size, kind, id and reference is checked; a node's parent must
 * have a smaller id, so no walk can go round.
 */
#ifndef AGGREGATOR_SYMBOLS_H
#define AGGREGATOR_SYMBOLS_H

#include <stddef.h>
#include <stdint.h>

#include "aggregator/merge.h"

struct symbol_code {
    uint32_t file, name; /* ids in merge->texts */
    uint32_t named;      /* 0: the worker records files only */
};

struct symbols {
    uint32_t *string; /* id - 1 -> merge->texts */
    uint32_t strings, strings_room;
    struct symbol_code *code; /* by id - 1 */
    uint32_t codes, codes_room;
    uint32_t *node; /* id - 1 -> merge->stacks */
    uint32_t nodes, nodes_room;
    uint32_t type[COUNTER_TYPES]; /* merge->types + 1; 0: not defined */
};

/**
 * Read definitions that were appended to an area (DEFINITIONS_SAMPLER or DEFINITIONS_ACTION). 0, -EPROTO if
 * they break the rules, -ENOMEM.
 */
int symbols_read(struct symbols *symbols, struct merge *merge, int area, const uint8_t *bytes, size_t size);

void symbols_close(struct symbols *symbols);

#endif
