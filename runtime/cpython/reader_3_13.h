/* CPython 3.13: see layout.h. No cframe; the shim frames of C calls stay and name None instead of a code
 * object. */
#ifndef RUNTIME_CPYTHON_READER_3_13_H
#define RUNTIME_CPYTHON_READER_3_13_H

#include "runtime/cpython/reader_3_12_on.h"

#define LEAF_THROUGH_CFRAME 0

static inline uintptr_t frame_executable(const _PyInterpreterFrame *frame)
{
    return (uintptr_t)frame->f_executable;
}

/* The instruction that runs, or the call that has not returned. */
static inline uintptr_t frame_instruction(const _PyInterpreterFrame *frame)
{
    return (uintptr_t)frame->instr_ptr;
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
