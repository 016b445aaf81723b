/* CPython 3.13: see layout.h. No cframe; the shim frames of C calls stay and name None instead of a code
 * object. */
#ifndef RUNTIME_CPYTHON_READER_3_13_H
#define RUNTIME_CPYTHON_READER_3_13_H

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
