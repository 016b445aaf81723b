/*
 * Walk: from a snapshot to a stack, believing nothing.
 *
 * Frames on the data stack lie end to end, each as large as its code object says. What may stand between a
 * frame and its caller there: frames that have returned but whose locals are still being destroyed (their
 * destructors run Python code above them), which tile the gap; and, where a chunk ends, the rest of it. A
 * frame that returned a moment ago looks like a dying one, so a stack with such a gap is believed only if the
 * next snapshot has it too.
 *
 * The walk from the leaf follows links, and believes none that the sizes contradict. While a thread runs on,
 * links are lost sooner than frames: what lies on the C stack (shims, and in 3.11 and 3.12 what points to the
 * leaf) is overwritten at once, a frame of the data stack only when others are pushed over it. So a stack
 * whose links broke during the gather is walked from its root by the sizes alone, as far as the mark says: to
 * gather it again instead would find another stack, the more likely one that stays, and short calls from C
 * would be missing from profiles. Never the later of two marks, nor the lower: a copy takes cache lines away
 * from the thread, so that after it the thread is likely to be found where it waits for one, at the beginning
 * or the end of a call.
 */
#ifndef RUNTIME_CPYTHON_WALK_H
#define RUNTIME_CPYTHON_WALK_H

#include "runtime/cpython/snapshot.h"

enum walked {
    WALK_VALID,
    WALK_MISSING, /* a frame that the snapshot lacks, at *missing */
    WALK_INVALID,
};

/** Walk from the leaf. Fills `out` (count, frames, STACK_TRUNCATED); after WALK_MISSING it holds the valid
 * leaf side. */
enum walked walk_stack(struct snapshot *snapshot, struct copy *copy, struct stack *out, uintptr_t *missing);

#if HEAP_FRAMES
static inline bool walk_met_mark(const struct snapshot *snapshot)
{
    (void)snapshot;
    return true;
}

static inline bool walk_from_root(struct snapshot *snapshot, struct copy *copy, struct stack *out)
{
    (void)snapshot, (void)copy, (void)out;
    return false; /* the sizes of frames on the heap say nothing of who called whom */
}
#else
/** Is the walk's leaf the one that the mark tells of? Where it is not, the stack is that of a later moment.
 */
bool walk_met_mark(const struct snapshot *snapshot);

/**
 * Walk from the root by the sizes of the frames, as far as they are valid and as the mark says. Fills `out`.
 * True if that is the whole stack: it ends where the mark says, and no generator runs that would have to be
 * above it.
 */
bool walk_from_root(struct snapshot *snapshot, struct copy *copy, struct stack *out);
#endif

/** Of a snapshot that made no valid stack: collect the root side, as far as it is valid. Fills `out`. */
void walk_root_side(struct snapshot *snapshot, struct copy *copy, struct stack *out);

#endif
