/*
 * Layout: CPython's structures as this interpreter's headers declare them. Only the .c files of this folder
 * include it. What differs between minors stands in reader_3_11.h, reader_3_12.h, reader_3_13.h, as the same
 * set of small inline functions:
 *
 *   frame_executable, frame_instruction   addresses of the code object and of the instruction
 *   frame_is_entry                        a frame that only marks a C call into the interpreter (no code)
 *   frame_enters_from_c                   C code called this very frame
 *   code_frame_words                      words that a frame of this code takes on the data stack
 *   interpreter_gil, gil_is_locked, gil_holder   an interpreter's GIL
 *   interpreter_gil_field                 where an interpreter points to its GIL; 0: all use the runtime's
 *   runtime_is_finalizing
 *   LEAF_THROUGH_CFRAME                   1: the leaf frame is tstate->cframe->current_frame; 0:
 * tstate->current_frame
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
#include <internal/pycore_frame.h>
#include <internal/pycore_interp.h>
#include <internal/pycore_runtime.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if PY_VERSION_HEX >= 0x030b0000 && PY_VERSION_HEX < 0x030c0000
#include "runtime/cpython/reader_3_11.h"
#elif PY_VERSION_HEX >= 0x030c0000 && PY_VERSION_HEX < 0x030d0000
#include "runtime/cpython/reader_3_12.h"
#elif PY_VERSION_HEX >= 0x030d0000 && PY_VERSION_HEX < 0x030e0000
#include "runtime/cpython/reader_3_13.h"
#else
#error "there is no reader for this minor version of CPython"
#endif

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
};
_Static_assert(FRAME_HEAD % 8 == 0 && CHUNK_HEAD % 8 == 0, "copied pieces stay aligned");
_Static_assert(GENERATOR_STATE_BEFORE > 0 && GENERATOR_STATE_BEFORE <= FRAME_PREFIX, "a generator's state");
_Static_assert(TSTATE_FIRST % 8 == 0 && TSTATE_END % 8 == 0 && TSTATE_FIRST < TSTATE_END,
               "one aligned piece");
_Static_assert(offsetof(PyThreadState, id) > TSTATE_FIRST && offsetof(PyThreadState, id) < TSTATE_END, "id");
_Static_assert(offsetof(PyThreadState, datastack_top) < TSTATE_END, "datastack_top");

static inline uintptr_t word_at(const uint8_t *bytes)
{
    uintptr_t word;
    __builtin_memcpy(&word, __builtin_assume_aligned(bytes, 8), sizeof word);
    return word;
}

/** A word of the gathered part of a thread state. */
#define TSTATE_WORD(copied, field) word_at((copied) + offsetof(PyThreadState, field) - TSTATE_FIRST)

static inline int8_t generator_state(const uint8_t *frame)
{
    return (int8_t)frame[-(int)GENERATOR_STATE_BEFORE];
}

#endif
