/* Definitions become the pool's numbers: see symbols.h. */
#include "aggregator/symbols.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shm/fault.h"
#include "shm/segment.h"

static void *room_for(void *array, uint32_t used, uint32_t *room, size_t each)
{
    if (used < *room)
        return array;
    uint32_t more = *room == 0 ? 64 : *room * 2;
    void *grown = realloc(array, more * each);
    if (grown != NULL)
        *room = more;
    return grown;
}

static int add_string(struct symbols *symbols, struct merge *merge, const uint8_t *record, uint32_t size)
{
    struct define_string define;
    memcpy(&define, record, sizeof define);
    if (define.length > size - sizeof define)
        return fault(EPROTO, "a string longer than its definition");
    uint32_t *grown = room_for(symbols->string, symbols->strings, &symbols->strings_room, sizeof *grown);
    if (grown == NULL)
        return fault(ENOMEM, "symbols");
    symbols->string = grown;
    grown[symbols->strings++] =
        names_intern(&merge->texts, (const char *)record + sizeof define, define.length);
    return 0;
}

static int add_code(struct symbols *symbols, struct merge *merge, const uint8_t *record, uint32_t size)
{
    struct define_code define;
    memcpy(&define, record, sizeof define);
    if (define.length > size - sizeof define)
        return fault(EPROTO, "a name longer than its definition");
    if (define.file == 0 || define.file > symbols->strings)
        return fault(EPROTO, "a code object of file %u of %u", define.file, symbols->strings);
    struct symbol_code *grown = room_for(symbols->code, symbols->codes, &symbols->codes_room, sizeof *grown);
    if (grown == NULL)
        return fault(ENOMEM, "symbols");
    symbols->code = grown;
    grown[symbols->codes++] = (struct symbol_code){
        .file = symbols->string[define.file - 1],
        .name = names_intern(&merge->texts, (const char *)record + sizeof define, define.length),
        .named = define.length != 0,
    };
    return 0;
}

static uint32_t instruction_of(struct merge *merge, const struct symbol_code *code, uint32_t line)
{
    char text[2 * NAMES_LONGEST + 16];
    const char *file = names_text(&merge->texts, code->file), *name = names_text(&merge->texts, code->name);
    int n;
    if (!code->named)
        n = snprintf(text, sizeof text, "%s", file);
    else if (line == 0)
        n = snprintf(text, sizeof text, "%s:%s", file, name);
    else
        n = snprintf(text, sizeof text, "%s:%s:%u", file, name, line);
    return names_intern(&merge->instructions, text, (size_t)n);
}

static int add_node(struct symbols *symbols, struct merge *merge, const uint8_t *record)
{
    struct define_node define;
    memcpy(&define, record, sizeof define);
    if (define.parent > symbols->nodes)
        return fault(EPROTO, "stack node %u has parent %u", symbols->nodes + 1, define.parent);
    if (define.code == 0 || define.code > symbols->codes)
        return fault(EPROTO, "a stack node of code %u of %u", define.code, symbols->codes);
    uint32_t *grown = room_for(symbols->node, symbols->nodes, &symbols->nodes_room, sizeof *grown);
    if (grown == NULL)
        return fault(ENOMEM, "symbols");
    symbols->node = grown;
    uint32_t parent = define.parent == 0 ? 0 : grown[define.parent - 1];
    grown[symbols->nodes++] = stacks_child(
        &merge->stacks, parent, instruction_of(merge, &symbols->code[define.code - 1], define.line));
    return 0;
}

static int add_type(struct symbols *symbols, struct merge *merge, const uint8_t *record, uint32_t size)
{
    struct define_type define;
    memcpy(&define, record, sizeof define);
    if (define.length > size - sizeof define)
        return fault(EPROTO, "an action type longer than its definition");
    if (define.type >= COUNTER_TYPES || symbols->type[define.type] != 0)
        return fault(EPROTO, "action type %u is out of range or defined twice", define.type);
    symbols->type[define.type] =
        names_intern(&merge->types, (const char *)record + sizeof define, define.length) + 1;
    return 0;
}

int symbols_read(struct symbols *symbols, struct merge *merge, int area, const uint8_t *bytes, size_t size)
{
    static const struct {
        int area;
        uint32_t head_bytes;
    } known[] = {
        [DEFINE_STRING] = {DEFINITIONS_SAMPLER, sizeof(struct define_string)},
        [DEFINE_CODE] = {DEFINITIONS_SAMPLER, sizeof(struct define_code)},
        [DEFINE_NODE] = {DEFINITIONS_SAMPLER, sizeof(struct define_node)},
        [DEFINE_TYPE] = {DEFINITIONS_ACTION, sizeof(struct define_type)},
    };
    for (size_t at = 0; at < size;) {
        struct record_header header;
        if (size - at < sizeof header)
            return fault(EPROTO, "a cut definition");
        memcpy(&header, bytes + at, sizeof header);
        if (header.kind == 0 || header.kind >= sizeof known / sizeof *known ||
            known[header.kind].area != area)
            return fault(EPROTO, "a definition of kind %u", header.kind);
        if (header.size % 8 != 0 || header.size < known[header.kind].head_bytes || header.size > size - at)
            return fault(EPROTO, "a definition of %u bytes", header.size);
        int rc = 0;
        if (header.kind == DEFINE_STRING)
            rc = add_string(symbols, merge, bytes + at, header.size);
        else if (header.kind == DEFINE_CODE)
            rc = add_code(symbols, merge, bytes + at, header.size);
        else if (header.kind == DEFINE_NODE)
            rc = add_node(symbols, merge, bytes + at);
        else
            rc = add_type(symbols, merge, bytes + at, header.size);
        if (rc != 0)
            return rc;
        at += header.size;
    }
    return 0;
}

void symbols_close(struct symbols *symbols)
{
    free(symbols->string);
    free(symbols->code);
    free(symbols->node);
    memset(symbols, 0, sizeof *symbols);
}
