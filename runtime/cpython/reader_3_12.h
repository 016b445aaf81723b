/* CPython 3.12: see layout.h. Each C call into the interpreter puts a shim frame on the C stack between two
 * frames. */
#ifndef RUNTIME_CPYTHON_READER_3_12_H
#define RUNTIME_CPYTHON_READER_3_12_H

#include "runtime/cpython/reader_3_12_on.h"

#define LEAF_THROUGH_CFRAME 1

static inline uintptr_t frame_executable(const _PyInterpreterFrame *frame)
{
    return (uintptr_t)frame->f_code;
}

/* The code unit before the next instruction: the one that runs, or a cache entry behind it (the same line).
 */
static inline uintptr_t frame_instruction(const _PyInterpreterFrame *frame)
{
    return (uintptr_t)frame->prev_instr;
}

static inline bool frame_is_entry(const _PyInterpreterFrame *frame)
{
    return frame->owner == FRAME_OWNED_BY_CSTACK;
}

static inline bool frame_enters_from_c(const _PyInterpreterFrame *frame)
{
    (void)frame; /* the shim before it says so */
    return false;
}

/* While it runs its stack pointer is in a register. */
static inline bool frame_may_die(const _PyInterpreterFrame *frame, uintptr_t at)
{
    (void)at;
    return frame->stacktop >= 0;
}

static inline bool frame_awaits_dying(const _PyInterpreterFrame *frame)
{
    return frame->stacktop >= 0;
}

#endif
