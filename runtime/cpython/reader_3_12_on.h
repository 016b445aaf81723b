/* What 3.12 and all later minors have in common: see layout.h. */
#ifndef RUNTIME_CPYTHON_READER_3_12_ON_H
#define RUNTIME_CPYTHON_READER_3_12_ON_H

static inline uint64_t code_frame_words(const PyCodeObject *code)
{
    return (uint64_t)(unsigned)code->co_framesize;
}

/* Interpreters without a GIL of their own point to that of the main one. */
static inline const struct _gil_runtime_state *interpreter_gil(const PyInterpreterState *interpreter)
{
    return interpreter->ceval.gil;
}

static inline uintptr_t interpreter_gil_field(uintptr_t interpreter)
{
    return interpreter + offsetof(PyInterpreterState, ceval.gil);
}

#endif
