/*
 * Layout: CPython's structures as this interpreter's headers declare them. Only the .c files of this folder
 * include it. What differs between minors stands in reader_3_10.h … reader_3_15.h, as the same set of small
 * inline functions:
 *
 *   code_frame_words, code_is_plausible   of a code object's head: words that a frame of it takes on the data
 *                                         stack; can it be one
 *   code_qualified_name, code_first_traceable, code_size_identity
 *   interpreter_gil                       an interpreter's GIL
 *   interpreter_gil_field                 where an interpreter points to its GIL; 0: all use the runtime's
 *   INTERPRETER_THREADS                   offset of the list of an interpreter's threads
 *   TSTATE_NATIVE_ID                      the field of a thread state that tells native threads apart
 *
 * and of frames, where they lie on a data stack (3.11 on; for 3.10 see heap_frames.c):
 *
 * - frame_executable, frame_instruction: addresses of the code object and of the instruction
 * - frame_is_entry: a frame that only marks a C call into the interpreter (no code)
 * - frame_enters_from_c: C code called this very frame
 * - frame_may_die: it may have returned while its locals are still being destroyed; false if it runs
 * - frame_awaits_dying: of a frame that called another without C code in between: it has not gone on since
 * - FRAMES_FORGET_CODE: defined where a frame that returns drops its code, so that one that was the leaf a
 * moment ago is known by its instruction only
 * - BASE_FRAME: where in the thread state every stack ends; defined from 3.15 on
 * - AWAITED_BELOW_TOP: words above what a suspended frame awaits on its stack; 1 from 3.15 on
 * - RUNNING_LOOP: where a thread state notes the loop that runs on its thread; defined from 3.14 on, where
 * threading.Thread runs in a context that it entered
 * - LEAF_THROUGH_CFRAME: 1 where tstate->cframe->current_frame is the leaf, 0 where tstate->current_frame is
 *
 * Copied structures are cast from bytes that are 8-aligned; of a frame only the fields before its locals are
 * copied, so a `const _PyInterpreterFrame *` here must never be read beyond them.
 */
#ifndef RUNTIME_CPYTHON_LAYOUT_H
#define RUNTIME_CPYTHON_LAYOUT_H

#ifndef Py_BUILD_CORE
#define Py_BUILD_CORE 1
#endif
#include <Python.h>
#undef _PyGC_FINALIZED /* 3.12 defines it twice */
#include <internal/pycore_interp.h>
#include <internal/pycore_runtime.h>
#if PY_VERSION_HEX >= 0x030b0000
#include <internal/pycore_frame.h>
#else
#include <frameobject.h>
#endif
#if PY_VERSION_HEX >= 0x030e0000
#include <internal/pycore_interpframe.h>
#include <internal/pycore_tstate.h>
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define HEAP_FRAMES (PY_VERSION_HEX < 0x030b0000)

#if PY_VERSION_HEX >= 0x030a0000 && PY_VERSION_HEX < 0x030b0000
#include "runtime/cpython/reader_3_10.h"
#elif PY_VERSION_HEX >= 0x030b0000 && PY_VERSION_HEX < 0x030c0000
#include "runtime/cpython/reader_3_11.h"
#elif PY_VERSION_HEX >= 0x030c0000 && PY_VERSION_HEX < 0x030d0000
#include "runtime/cpython/reader_3_12.h"
#elif PY_VERSION_HEX >= 0x030d0000 && PY_VERSION_HEX < 0x030e0000
#include "runtime/cpython/reader_3_13.h"
#elif PY_VERSION_HEX >= 0x030e0000 && PY_VERSION_HEX < 0x030f0000
#include "runtime/cpython/reader_3_14.h"
#elif PY_VERSION_HEX >= 0x030f0000 && PY_VERSION_HEX < 0x03100000
#include "runtime/cpython/reader_3_15.h"
#else
#error "there is no reader for this minor version of CPython"
#endif

#if !HEAP_FRAMES
enum {
    FRAME_HEAD = offsetof(_PyInterpreterFrame, localsplus), /* what is copied of a frame off the data stack */
    CHUNK_HEAD = offsetof(_PyStackChunk, data),
    CODE_HEAD = offsetof(PyCodeObject, co_code_adaptive),
    /* A generator's state lies right before its frame; what precedes a frame off the data stack is copied
       too. */
    FRAME_PREFIX = 8,
    GENERATOR_STATE_BEFORE = offsetof(PyGenObject, gi_iframe) - offsetof(PyGenObject, gi_frame_state),
    /* The part of a thread state that is gathered. */
    TSTATE_FIRST = offsetof(PyThreadState, native_thread_id),
    TSTATE_END = offsetof(PyThreadState, datastack_limit),
    INTERPRETER_THREADS = offsetof(PyInterpreterState, threads.head),
};
_Static_assert(FRAME_HEAD % 8 == 0 && CHUNK_HEAD % 8 == 0, "copied pieces stay aligned");
_Static_assert(GENERATOR_STATE_BEFORE > 0 && GENERATOR_STATE_BEFORE <= FRAME_PREFIX, "a generator's state");
_Static_assert(offsetof(PyThreadState, datastack_top) < TSTATE_END, "datastack_top");
#define TSTATE_NATIVE_ID native_thread_id

static inline int8_t generator_state(const uint8_t *frame)
{
    return (int8_t)frame[-(int)GENERATOR_STATE_BEFORE];
}

static inline bool code_is_plausible(const PyCodeObject *code)
{
    return Py_SIZE(code) > 0 && code->co_nlocalsplus >= 0 && code->co_stacksize >= 0 &&
           code_frame_words(code) >= FRAME_HEAD / sizeof(void *);
}

static inline PyObject *code_qualified_name(const PyCodeObject *code)
{
    return code->co_qualname;
}

static inline int code_first_traceable(const PyCodeObject *code)
{
    return code->_co_firsttraceable;
}

/* Something that tells code of different lengths apart. */
static inline uintptr_t code_size_identity(const PyCodeObject *code)
{
    return (uintptr_t)Py_SIZE(code);
}
#endif

_Static_assert(TSTATE_FIRST % 8 == 0 && TSTATE_END % 8 == 0 && TSTATE_FIRST < TSTATE_END,
               "one aligned piece");
_Static_assert(offsetof(PyThreadState, id) >= TSTATE_FIRST && offsetof(PyThreadState, id) < TSTATE_END, "id");

static inline uintptr_t word_at(const uint8_t *bytes)
{
    uintptr_t word;
    __builtin_memcpy(&word, __builtin_assume_aligned(bytes, 8), sizeof word);
    return word;
}

/** A word of the gathered part of a thread state. */
#define TSTATE_WORD(copied, field) word_at((copied) + (offsetof(PyThreadState, field) - TSTATE_FIRST))

static inline bool gil_is_locked(const struct _gil_runtime_state *gil)
{
    return __atomic_load_n((const int *)&gil->locked, __ATOMIC_RELAXED) > 0;
}

static inline uintptr_t gil_holder(const struct _gil_runtime_state *gil)
{
    return __atomic_load_n((const uintptr_t *)&gil->last_holder, __ATOMIC_RELAXED);
}

static inline bool runtime_is_finalizing(void)
{
    return __atomic_load_n((const uintptr_t *)&_PyRuntime._finalizing, __ATOMIC_RELAXED) != 0;
}

#endif
