/* CPython 3.11: see layout.h. Frames are linked without shims; a C call into the interpreter shows only in
 * `cframe`. */
#ifndef RUNTIME_CPYTHON_READER_3_11_H
#define RUNTIME_CPYTHON_READER_3_11_H

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
    (void)frame;
    return false;
}

static inline bool frame_enters_from_c(const _PyInterpreterFrame *frame)
{
    uint8_t flag; /* what was copied may be anything, and a bool that is neither 0 nor 1 must not be loaded */
    memcpy(&flag, &frame->is_entry, sizeof flag);
    return flag != 0;
}

static inline uint64_t code_frame_words(const PyCodeObject *code)
{
    return (uint64_t)(unsigned)code->co_nlocalsplus + (unsigned)code->co_stacksize + FRAME_SPECIALS_SIZE;
}

/* One GIL for the whole runtime. */
static inline const struct _gil_runtime_state *interpreter_gil(const PyInterpreterState *interpreter)
{
    (void)interpreter;
    return &_PyRuntime.ceval.gil;
}

static inline uintptr_t interpreter_gil_field(uintptr_t interpreter)
{
    (void)interpreter;
    return 0;
}

/* While it runs its stack pointer is in a register. */
static inline bool frame_may_die(const _PyInterpreterFrame *frame, uintptr_t at)
{
    (void)at;
    return frame->stacktop >= 0;
}

/* No need to ask: without shims the link is the called frame's own, and as old as that. */
static inline bool frame_awaits_dying(const _PyInterpreterFrame *frame)
{
    (void)frame;
    return true;
}

#endif
