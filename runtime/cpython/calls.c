/* The instructions that call: see calls.h. Sources of the list: Python/bytecodes.c of each version, where an
 * instruction or a specialised form of it pushes a frame. */
#include "runtime/cpython/calls.h"

#include <string.h>

#include "runtime/cpython/layout.h"

#if !HEAP_FRAMES

/* The interpreter exports these tables from 3.15 on; before, the headers define them for who asks. */
#if PY_VERSION_HEX < 0x030d0000
#define NEED_OPCODE_TABLES
#include <internal/pycore_opcode.h>
#else
#if PY_VERSION_HEX < 0x030f0000
#define NEED_OPCODE_METADATA
#endif
#include <internal/pycore_opcode_metadata.h>
#endif
#include <opcode.h>

static bool is_hidden(uint8_t opcode)
{
#ifdef ENTER_EXECUTOR
    if (opcode == ENTER_EXECUTOR)
        return true;
#endif
#ifdef MIN_INSTRUMENTED_OPCODE
    return opcode >= MIN_INSTRUMENTED_OPCODE;
#else
    return false;
#endif
}

static bool may_call(uint8_t opcode, uint8_t operand)
{
    switch (opcode) {
    case CALL:
#ifdef CALL_KW
    case CALL_KW:
#endif
    case CALL_FUNCTION_EX:
    case LOAD_ATTR: /* a property, or __getattribute__ */
        return true;
#ifdef BINARY_SUBSCR
    case BINARY_SUBSCR: /* __getitem__ */
        return true;
#endif
#ifdef NB_SUBSCR
    case BINARY_OP:
        return operand == NB_SUBSCR;
#endif
    default:
        (void)operand;
        return false;
    }
}

void calls_begin(struct calls_writer *writer, uint8_t *map, uint32_t units)
{
    *writer = (struct calls_writer){.map = map};
    memset(map, 0, calls_map_bytes(units));
}

void calls_feed(struct calls_writer *writer, const uint8_t *bytes, uint32_t units)
{
    for (uint32_t i = 0; i < units && !writer->hidden; i++, writer->unit++) {
        if (writer->caches > 0) {
            writer->caches--;
        } else {
            const uint8_t opcode = bytes[2 * i], plain = _PyOpcode_Deopt[opcode];
            writer->hidden = is_hidden(opcode);
            writer->may_call = may_call(plain, bytes[2 * i + 1]);
            writer->caches = _PyOpcode_Caches[plain];
        }
        if (writer->may_call)
            writer->map[writer->unit / 8] |= (uint8_t)(1u << (writer->unit % 8));
    }
}

#endif
