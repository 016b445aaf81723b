/*
 * Snapshot: what one gather brought of a thread, and where the next one will look. By snapshot.c for the
 * versions that have a data stack, by heap_frames.c for 3.10, which has none.
 *
 * Order of the pieces, which is the order in which the kernel copies them: the mark, one word that says where
 * the stack ends and so fixes the moment of the sample; what else points to the leaf frame; the frames
 * outside the data stack that are next to the leaf; the used part of the newest chunk of the data stack;
 * older chunks; the other frames outside; the thread state. The leaf comes first and what changes fastest
 * right behind it, so that the stack found below the leaf is the one the leaf belonged to. Frames that have
 * left the data stack stay readable there until others are pushed; what has left the C stack (shims, 3.12+)
 * is overwritten at once, so these go before it: behind it, calls from C of a microsecond would be found
 * broken, and be missing from profiles.
 *
 * Each piece takes 0.03 us, or 0.3 us where copies are slow (copy.h), so what comes first of the thread
 * state, where it lies together, is one piece: each one more between the mark and the data stack, and that
 * one is found torn more often. Where copies are slow all single frames come behind the data stack.
 *
 * The context that the thread is in is copied three times: first of all, with what points to the leaf, and
 * with the thread state at the end. Where they are one, the stack is that context's.
 */
#ifndef RUNTIME_CPYTHON_SNAPSHOT_H
#define RUNTIME_CPYTHON_SNAPSHOT_H

#include "runtime/cpython/layout.h"
#include "runtime/cpython/reader.h"

enum outcome {
    TAKEN,  /* a whole snapshot */
    AGAIN,  /* the prediction was wrong and has been mended: take another */
    GONE,   /* the thread is not there any more, or cannot be read at all */
    BEYOND, /* snapshot_learn: the address lies on a part of the data stack that is not gathered (too deep) */
    GARBAGE, /* snapshot_learn: there is no frame there */
};

#if HEAP_FRAMES
enum {
    SNAPSHOT_LATE = 256, /* frames that were not predicted and are read one by one behind the gather */
    SNAPSHOT_SLOT_BITS = 12,
    SNAPSHOT_BLOCK = 16 << 10, /* … by pieces of memory, as new frames often lie near each other */
};

struct snapshot {
    const struct reader_thread *thread;
    struct reader_prediction *prediction;
    bool whole; /* all that was asked for came */
    uintptr_t leaf;
    uintptr_t context;  /* that the thread was in; 0: none */
    bool context_moved; /* it came into another one meanwhile */
    uintptr_t gap;      /* always 0 */
    bool doubtful;      /* a caller on the walk has returned since, so that its line is not known */
    bool tracing; /* a trace function runs: it may be called by frames that have not begun or have ended */
    int depth;    /* calls of the interpreter that have not returned; no stack has more frames */
    int frames;
    bool used[READER_OFF_CHUNK]; /* frame[i] was part of the walk */
    uintptr_t frame_at[READER_OFF_CHUNK];
    const uint8_t *frame[READER_OFF_CHUNK];
    const uint8_t *before[READER_OFF_CHUNK]; /* its links before the leaf was read; NULL: not gathered */
    int slot_bits;
    uint16_t slot[1 << SNAPSHOT_SLOT_BITS]; /* hash of the frames' addresses: index + 1 */
    int late;           /* of the frames, the last ones: not gathered, but read in the walk */
    uintptr_t block_at; /* where `block` was copied from; 0: nowhere */
    uint8_t block[SNAPSHOT_BLOCK] __attribute__((aligned(8)));
    uint8_t late_frame[SNAPSHOT_LATE][FRAME_HEAD] __attribute__((aligned(8)));
};
#else
struct snapshot {
    const struct reader_thread *thread;
    struct reader_prediction *prediction;
    bool whole; /* all that was asked for came, if only the leaf may not have been found */
    bool cut;   /* there are older chunks than chunk_at[0] */
    int chunks, frames;
    uintptr_t leaf;                      /* 0: the thread runs no Python code */
    uintptr_t context;                   /* that the thread was in; 0: none */
    bool context_moved;                  /* it came into another one meanwhile */
    uintptr_t top;                       /* of the data stack: the mark, where that is not the leaf */
    uintptr_t data_end;                  /* where the walk's frames on the data stack end; 0: it has none */
    uintptr_t gap;                       /* the frame above dying ones that a walk met; 0: none */
    bool doubtful;                       /* a caller on the walk is at no call, so it has gone on since */
    uintptr_t chunk_at[READER_CHUNKS];   /* root first */
    const uint8_t *chunk[READER_CHUNKS]; /* copies; NULL: not gathered */
    uint32_t chunk_bytes[READER_CHUNKS];
    uintptr_t frame_at[READER_OFF_CHUNK];   /* single frames, leaf first as far as that was known */
    const uint8_t *frame[READER_OFF_CHUNK]; /* their copies, each with FRAME_PREFIX bytes before it */
    uint16_t met[READER_OFF_CHUNK];         /* the walk came to this one as the n-th of them; 0: not at all */
    uint16_t met_last;
    const uint8_t *tstate; /* from TSTATE_FIRST to TSTATE_END */
};
#endif

/** Before the first snapshot_take. The rest is large, and says itself how much of it counts. */
static inline void snapshot_empty(struct snapshot *snapshot)
{
    snapshot->whole = false;
    snapshot->gap = 0;
    snapshot->doubtful = false;
}

/** Gather. */
enum outcome snapshot_take(struct snapshot *snapshot, struct copy *copy, const struct reader_thread *thread,
                           struct reader_prediction *prediction);

/**
 * The walk met a frame that the snapshot lacks: find out where it lies and predict it, and with it every
 * other such frame between it and the root, so that a stack with many C calls in it is known after one look.
 */
enum outcome snapshot_learn(struct snapshot *snapshot, struct copy *copy, uintptr_t address);

/** The snapshot made a valid stack: drop predictions that have gone stale, put the rest in the order of the
 * walk, and follow the top of the data stack. */
void snapshot_settle(const struct snapshot *snapshot);

/** The snapshot made no valid stack: drop what it shows to be wrong in the prediction. */
void snapshot_doubt(const struct snapshot *snapshot);

/** No snapshot made a valid stack: drop what may lead astray again. */
void snapshot_forget(struct reader_prediction *prediction);

#if !HEAP_FRAMES
static inline const _PyStackChunk *snapshot_chunk(const struct snapshot *snapshot, int k)
{
    return (const _PyStackChunk *)(const void *)snapshot->chunk[k];
}

/** Index of the gathered chunk that `address` lies in (by its full size), or -1. `hint` is tried first. */
static inline int snapshot_chunk_of(const struct snapshot *snapshot, uintptr_t address, int hint)
{
    if (hint >= 0 && snapshot->chunk[hint] != NULL &&
        address - snapshot->chunk_at[hint] < snapshot_chunk(snapshot, hint)->size)
        return hint;
    for (int k = snapshot->chunks - 1; k >= 0; k--) {
        if (snapshot->chunk[k] != NULL && address - snapshot->chunk_at[k] < snapshot_chunk(snapshot, k)->size)
            return k;
    }
    return -1;
}

/** The copy of the frame at `address`: on chunk `k` if k >= 0, else among the single frames. NULL: not
 * gathered. */
static inline const uint8_t *snapshot_frame(struct snapshot *snapshot, uintptr_t address, int k)
{
    if (address % sizeof(void *) != 0)
        return NULL;
    if (k >= 0) {
        uintptr_t offset = address - snapshot->chunk_at[k];
        if (offset < CHUNK_HEAD)
            return NULL;
        if (snapshot->chunk_bytes[k] >= FRAME_HEAD && offset <= snapshot->chunk_bytes[k] - FRAME_HEAD)
            return snapshot->chunk[k] + offset;
    }
    for (int i = 0; i < snapshot->frames; i++) {
        if (snapshot->frame_at[i] == address) {
            if (snapshot->met[i] == 0)
                snapshot->met[i] = ++snapshot->met_last;
            return snapshot->frame[i];
        }
    }
    return NULL;
}
#endif

#endif
