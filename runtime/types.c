/* Names of actions and their rows: see types.h. */
#include "runtime/types.h"

#include <string.h>

enum {
    NAMES_BYTES = 24 << 10,
    INDEX = 1024,       /* open addressing, a power of two, four times the rows */
    PATHS = 2048,       /* direct-mapped: path hash -> hash of its type */
    NAME_LONGEST = 200, /* longer names are cut, at a character boundary */
};

static struct {
    uint32_t rows;
    uint32_t names_used;
    char names[NAMES_BYTES];
    struct {
        uint32_t at;
        uint32_t length;
        uint32_t hash;
    } row[COUNTER_TYPES];
    uint16_t index[INDEX]; /* row + 1 */
    struct {
        uint32_t path_hash;
        uint32_t type_hash;
    } path[PATHS];
} types;

static size_t cut(const char *name, size_t length)
{
    if (length <= NAME_LONGEST)
        return length;
    length = NAME_LONGEST;
    while (length > 0 && ((unsigned char)name[length] & 0xC0) == 0x80)
        length--;
    return length;
}

static uint32_t add_row(struct segment *segment, const char *name, size_t length, uint32_t hash)
{
    if (types.rows == COUNTER_TYPES || types.names_used + length > NAMES_BYTES)
        return 0;
    struct define_type definition = {
        .header = {.kind = DEFINE_TYPE}, .type = types.rows, .length = (uint32_t)length};
    if (!definitions_put(&segment->definitions[DEFINITIONS_ACTION], &definition, sizeof definition, name,
                         (uint32_t)length))
        return 0;
    uint32_t row = types.rows++;
    types.row[row].at = types.names_used;
    types.row[row].length = (uint32_t)length;
    types.row[row].hash = hash;
    memcpy(types.names + types.names_used, name, length);
    types.names_used += (uint32_t)length;
    atomic_store_explicit(&segment->counters->rows_used, types.rows, memory_order_release);
    return row;
}

void types_begin_segment(struct segment *segment)
{
    types.rows = 0;
    types.names_used = 0;
    memset(types.index, 0, sizeof types.index);
    types_row(segment, "(other)", 7);
}

uint32_t types_row(struct segment *segment, const char *name, size_t length)
{
    length = cut(name, length);
    uint32_t hash = hash_bytes(name, length);
    uint32_t at = hash & (INDEX - 1);
    for (; types.index[at] != 0; at = (at + 1) & (INDEX - 1)) {
        uint32_t row = types.index[at] - 1u;
        if (types.row[row].hash == hash && types.row[row].length == length &&
            memcmp(types.names + types.row[row].at, name, length) == 0)
            return row;
    }
    uint32_t row = add_row(segment, name, length, hash);
    if (row != 0 || types.rows == 1)
        types.index[at] = (uint16_t)(row + 1);
    if (row == 0 && types.rows > 1)
        counter_add(&segment->worker->other, 1);
    return row;
}

uint32_t types_known(uint32_t path_hash)
{
    uint32_t at = path_hash & (PATHS - 1);
    return types.path[at].path_hash == path_hash && types.path[at].type_hash != 0 ? types.path[at].type_hash
                                                                                  : path_hash;
}

void types_learn(uint32_t path_hash, const char *name, size_t length)
{
    uint32_t at = path_hash & (PATHS - 1);
    uint32_t hash = hash_bytes(name, cut(name, length)); /* the aggregator knows no more of it */
    types.path[at].path_hash = path_hash;
    types.path[at].type_hash = hash;
}
