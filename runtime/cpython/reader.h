/*
 * Reader: one stack of one thread, read without the GIL.
 *
 * One reader per CPython minor (reader_3_10.h …), chosen when the extension is compiled; this header is all
 * that the rest of the runtime knows of CPython's structures, together with code.h. No function here but
 * reader_check, reader_note_thread and codes_watch may touch the interpreter's API.
 *
 * What makes a stack believable (SAMPLING in docs/architecture.md): the leaf pointer is gathered first and
 * the used part of the data stack right behind it in one contiguous piece, in one system call; then every
 * frame must name a known code object with its instruction inside it, each frame that lies on the data stack
 * must begin where its caller's frame ends, and the walk must reach the thread's base frame. What fails is
 * gathered again, at most 3 times; then the valid root side is kept and flagged. A stack is never rejected
 * because its leaf moved.
 */
#ifndef RUNTIME_CPYTHON_READER_H
#define RUNTIME_CPYTHON_READER_H

#include <patchlevel.h> /* nothing but the version of the interpreter */
#include <stdbool.h>
#include <stdint.h>

#include "runtime/cpython/code.h"
#include "runtime/cpython/copy.h"

enum {
    STACK_FRAMES = 1024, /* deepest stack that is kept whole; beyond, the root side is cut and flagged */
    READER_CHUNKS = 24,  /* chunks of a data stack that are gathered */
#if PY_VERSION_HEX < 0x030b0000
    READER_OFF_CHUNK =
        1280, /* all frames, as 3.10 has no data stack: a whole stack and what was lately seen */
#else
    READER_OFF_CHUNK = 160, /* frames outside the data stack (generators, C-entry shims) that are gathered */
#endif
    READER_CFRAMES = 4, /* C frames that may point to the leaf (3.11 and 3.12) */
};

/** A thread as its own hook noted it, with the GIL. Plain data; may be copied. */
struct reader_thread {
    uintptr_t tstate;
    uint64_t tstate_id;        /* unique in its interpreter: a reused tstate has another */
    uint64_t tstate_native_id; /* what its tstate says; the parent's after a fork that Python does not know of
                                  (uWSGI). 3.10 has no native id there: its pthread_t */
    int32_t tid;               /* native thread id */
    uintptr_t interpreter;
};

/** What the sampler remembers of a thread between samples: where its stack will probably be. Zeroed at first.
 */
struct reader_prediction {
    int chunks;
    bool cut;                           /* there are older chunks than the first one here */
    uintptr_t chunk[READER_CHUNKS];     /* root first */
    uint32_t chunk_used[READER_CHUNKS]; /* bytes from its start */
    int frames;
    uintptr_t frame[READER_OFF_CHUNK];
    uint8_t frame_idle[READER_OFF_CHUNK]; /* reads since it was last part of a stack */
    int cframes;
    uintptr_t cframe[READER_CFRAMES];
    uint8_t cframe_idle[READER_CFRAMES];
    uint8_t recursive; /* 3.10: functions called themselves so few reads ago that the same frames may serve
                          several of them in turn */
};

struct stack_frame {
    struct code *code;
    uint32_t instruction; /* index in code units */
};

enum stack_flags {
    STACK_TORN = 1,      /* only the root side, as far as it was valid */
    STACK_TRUNCATED = 2, /* deeper than STACK_FRAMES: the leaf side is kept */
};

struct stack {
    uint32_t count;
    uint32_t flags;
    uint32_t retries;                       /* gathers that had to be repeated */
    struct stack_frame frame[STACK_FRAMES]; /* leaf first; internal frames are left out */
};

/** What else the gather tells. */
struct reader_facts {
    bool holds_gil;    /* this thread held the GIL */
    bool gil_is_held;  /* somebody held it */
    bool in_context;   /* the whole stack was read in the context below; else it is not known in which */
    uintptr_t context; /* for context_find; 0: the thread had none */
    uint64_t noted[3]; /* by reader_gathered, of the gather that the stack is from; else 0 */
};

/**
 * Called by reader_read right after each gather, before the stack is walked, to fill in `noted`: what the
 * context points to may be freed soon. NULL: nobody wants to know.
 */
extern void (*reader_gathered)(struct copy *copy, const struct reader_thread *thread,
                               struct reader_facts *facts);

/**
 * Check at start-up that this interpreter is what the extension was built for: exact minor, _Py_DebugOffsets
 * where they exist, not free-threaded, and our walk of the calling thread's own stack against the C API's
 * (file, name, line of every frame), also through a generator. GIL held; calls Python. 0, or -ENOTSUP/-EPROTO
 * with fault_text() that says what differs.
 */
int reader_check(void);

/** Fill in the calling thread. GIL held. A few ns. */
void reader_note_thread(struct reader_thread *out);

/** True once the interpreter is being finalized: the sampler must stop. Plain load, any thread. */
bool reader_finalizing(void);

/**
 * Read the stack of `thread` into `out`. Returns true if anything is valid (out->count > 0, with flags),
 * false if the thread has gone or nothing could be believed. Sampler thread only (`copy` and the code table
 * are its own). On return every `frame[i].code` is alive in the sense of code.h: no code object of this stack
 * died meanwhile.
 */
bool reader_read(struct copy *copy, const struct reader_thread *thread, struct reader_prediction *prediction,
                 struct stack *out, struct reader_facts *facts);

/** Has a code object of `stack` died since codes_begin returned `since`, before the stack was read? */
bool reader_any_died(const struct stack *stack, uint64_t since);

/** Does the word at this address, which a thread waits for, belong to the interpreter's GIL? */
bool reader_gil_has(uintptr_t word);

/**
 * List the threads of all interpreters that share the GIL, by guarded reads. Returns how many were written to
 * `out` (at most `most`). Sampler thread only.
 */
int reader_list_threads(struct copy *copy, struct reader_thread *out, int most);

#endif
