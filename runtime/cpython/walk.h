/*
 * Walk: from a snapshot to a stack, believing nothing.
 *
 * Frames on the data stack lie end to end, each as large as its code object says. What may stand between a
 * frame and its caller there: frames that have returned but whose locals are still being destroyed (their
 * destructors run Python code above them), which tile the gap; and, where a chunk ends, the rest of it. A
 * frame that returned a moment ago looks like a dying one, so a stack with such a gap is believed only if the
 * next snapshot has it too.
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

/** Of a snapshot that made no valid stack: collect the root side, as far as it is valid. Fills `out`. */
void walk_root_side(struct snapshot *snapshot, struct copy *copy, struct stack *out);

#endif
