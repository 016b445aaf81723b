/*
 * Calls: at which instructions of a code object the interpreter may enter another Python frame by itself,
 * without C code in between. A frame that waits for such a one stands at one of them; where frames of one
 * size take each other's place on the data stack, that tells a caller from a frame that came there since.
 *
 * Instructions are told by what they are when they are not specialised. What instrumentation and the JIT put
 * in their place hides them: of such a code object nothing is known. Generators that are resumed are not
 * meant: they have a frame of their own elsewhere.
 */
#ifndef RUNTIME_CPYTHON_CALLS_H
#define RUNTIME_CPYTHON_CALLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Marks code units, which come in any number of pieces, in a map of one bit each. */
struct calls_writer {
    uint8_t *map;
    uint32_t unit;  /* the next one */
    uint8_t caches; /* of the last instruction, that are still to come */
    bool may_call;  /* that one may */
    bool hidden;    /* an instruction that hides another one was met: nothing is known */
};

/** Bytes of the map of so many code units. */
static inline uint32_t calls_map_bytes(uint32_t units)
{
    return (units + 7) / 8;
}

/** Begin a map of `units` code units at `map`. */
void calls_begin(struct calls_writer *writer, uint8_t *map, uint32_t units);

/** Feed the next `units` code units. */
void calls_feed(struct calls_writer *writer, const uint8_t *bytes, uint32_t units);

/** May the interpreter enter a function's frame from code unit `unit`? `map` NULL: it is not known, so it
 * may. A unit of an instruction's inline caches counts as the instruction. */
static inline bool calls_may(const uint8_t *map, uint32_t unit)
{
    return map == NULL || (map[unit / 8] >> (unit % 8) & 1) != 0;
}

#endif
