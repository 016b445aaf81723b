/* CPython 3.14: see layout.h. What a frame names is a tagged reference. Frames that only mark a C call into
 * the interpreter still lie on the C stack; their owners mean a mark without code.
 */
#ifndef RUNTIME_CPYTHON_READER_3_14_H
#define RUNTIME_CPYTHON_READER_3_14_H

#include "runtime/cpython/reader_3_12_on.h"

#define LEAF_THROUGH_CFRAME 0
#define FRAMES_FORGET_CODE 1
#define RUNNING_LOOP offsetof(_PyThreadStateImpl, asyncio_running_loop)

/* The low bits of a _PyStackRef say who counts the reference. */
static inline uintptr_t frame_executable(const _PyInterpreterFrame *frame)
{
    return (uintptr_t)frame->f_executable.bits & ~(uintptr_t)7;
}

/* The instruction that runs, or the call that has not returned. */
static inline uintptr_t frame_instruction(const _PyInterpreterFrame *frame)
{
    return (uintptr_t)frame->instr_ptr;
}

static inline bool frame_is_entry(const _PyInterpreterFrame *frame)
{
    return frame->owner == FRAME_OWNED_BY_INTERPRETER ||
           frame->owner == FRAME_OWNED_BY_INTERPRETER + 1; /* the C stack, only in 3.14 */
}

static inline bool frame_enters_from_c(const _PyInterpreterFrame *frame)
{
    (void)frame; /* the mark before it says so */
    return false;
}

/* Its stack is emptied before what lies there is destroyed. */
static inline bool frame_may_die(const _PyInterpreterFrame *frame, uintptr_t at)
{
    return (uintptr_t)frame->stackpointer == at + offsetof(_PyInterpreterFrame, localsplus);
}

/* No need to ask: frame_may_die is certain. */
static inline bool frame_awaits_dying(const _PyInterpreterFrame *frame)
{
    (void)frame;
    return true;
}

#endif
