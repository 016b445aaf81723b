/* CPython 3.12: see layout.h. Each C call into the interpreter puts a shim frame on the C stack between two
 * frames. */
#ifndef RUNTIME_CPYTHON_READER_3_12_H
#define RUNTIME_CPYTHON_READER_3_12_H

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

static inline uint64_t code_frame_words(const PyCodeObject *code)
{
    return (uint64_t)(unsigned)code->co_framesize;
}

/* Interpreters without a GIL of their own point to that of the main one. */
static inline const struct _gil_runtime_state *interpreter_gil(const PyInterpreterState *interpreter)
{
    return interpreter->ceval.gil;
}

static inline bool gil_is_locked(const struct _gil_runtime_state *gil)
{
    return __atomic_load_n((const int *)&gil->locked, __ATOMIC_RELAXED) > 0;
}

static inline uintptr_t gil_holder(const struct _gil_runtime_state *gil)
{
    return __atomic_load_n((const uintptr_t *)&gil->last_holder, __ATOMIC_RELAXED);
}

static inline uintptr_t interpreter_gil_field(uintptr_t interpreter)
{
    return interpreter + offsetof(PyInterpreterState, ceval.gil);
}

static inline bool runtime_is_finalizing(void)
{
    return __atomic_load_n((const uintptr_t *)&_PyRuntime._finalizing, __ATOMIC_RELAXED) != 0;
}

#endif
