/* CPython 3.10: see layout.h. No data stack: frames are objects on the heap, linked by f_back from
 * tstate->frame. A code object keeps its bytecode and its line table in bytes objects of their own. */
#ifndef RUNTIME_CPYTHON_READER_3_10_H
#define RUNTIME_CPYTHON_READER_3_10_H

enum {
    FRAME_HEAD = offsetof(PyFrameObject, f_blockstack), /* what is copied of a frame */
    CODE_HEAD = offsetof(PyCodeObject, co_zombieframe),
    /* The part of a thread state that is gathered; the leaf frame comes first. */
    TSTATE_FIRST = offsetof(PyThreadState, frame),
    TSTATE_END = offsetof(PyThreadState, id) + sizeof(uint64_t),
    INTERPRETER_THREADS = offsetof(PyInterpreterState, tstate_head),
};
_Static_assert(FRAME_HEAD % 8 == 0, "copied pieces stay aligned");
#define TSTATE_NATIVE_ID thread_id

/* Frames do not lie end to end, so nobody asks how large they are. */
static inline uint64_t code_frame_words(const PyCodeObject *code)
{
    (void)code;
    return 0;
}

static inline bool code_is_plausible(const PyCodeObject *code)
{
    return code->co_code != NULL && code->co_nlocals >= 0 && code->co_stacksize >= 0;
}

/* There is no co_qualname yet. */
static inline PyObject *code_qualified_name(const PyCodeObject *code)
{
    return code->co_name;
}

static inline int code_first_traceable(const PyCodeObject *code)
{
    (void)code;
    return 0;
}

/* Something that tells code of different lengths apart. */
static inline uintptr_t code_size_identity(const PyCodeObject *code)
{
    return (uintptr_t)code->co_code;
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

#endif
