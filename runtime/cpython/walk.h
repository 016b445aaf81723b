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
 * links are lost sooner than frames: what lies on the C stack is overwritten at once, a frame of the data
 * stack only when others are pushed over it. In 3.11 and 3.12 the pointer to the leaf lies there too. So
 * there the mark is the top of the data stack, and a stack whose links broke during the gather is walked from
 * its root by the sizes alone, as far as the mark says: to gather it again instead would find another stack,
 * the more likely one that stays, and short calls from C would be missing from profiles. Never a later mark:
 * a copy takes cache lines away from the thread, so that after it the thread is likely to be found where it
 * waits for one, at the beginning or the end of a call. From 3.13 on the mark is the pointer to the leaf
 * itself. It names a frame, and what lies there by then may be another one of the same size: what does not
 * hold together is gathered again, and walked from its root only if that did not help.
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

/**
 * Does the mark tell where the stack ends, but not which frame lies there? Then a walk may have ended
 * elsewhere (walk_met_mark), and one from the root is as good as one from the leaf.
 */
#if HEAP_FRAMES
#define MARK_IS_AN_END 0
#else
#define MARK_IS_AN_END LEAF_THROUGH_CFRAME
#endif

/**
 * Of a doubtful stack the functions are certain and only lines are in doubt. So what is gathered again may
 * tell those, where it is the same stack; another one is of a later moment, and more likely one that stays.
 */
#define DOUBT_IS_OF_LINES HEAP_FRAMES

/** Does the walk from the leaf end where the mark says? Where it does not, its stack is that of a later
 * moment. */
bool walk_met_mark(const struct snapshot *snapshot);

/**
 * Walk from the root by what is certain without the links from the leaf, as far as it is valid and as the
 * mark says. Fills `out`. True if that is the whole stack: it ends where the mark says, and no generator runs
 * that would have to be above it.
 */
bool walk_from_root(struct snapshot *snapshot, struct copy *copy, struct stack *out);

#endif
