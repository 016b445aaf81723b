/*
 * Sample: what the sampler does at one tick: which threads it looks at, what it reads of them, and what each
 * sample says and stands for.
 *
 * The threads of a tick are those in the slot table (slots.h) and, with scope "process", all others. A look
 * at a thread is a read of its CPU clock: where that stands still, the thread ran nothing and its last sample
 * is exact. Only where it moved is the stack read.
 *
 * Both are bounded in each tick, so that a tick never takes long: of more than SAMPLE_LOOKS threads so many
 * are drawn (draw.h), and of more than SAMPLE_READS stacks to be read so many. What is drawn stands for the
 * rest: a sample's wall time is the interval times threads / threads looked at, times stacks to read / stacks
 * read. So totals stay true, and each thread has its turn.
 *
 * All memory is reserved once and touched as it is needed; a tick allocates nothing. Sampler thread only, but
 * for sample_open.
 */
#ifndef RUNTIME_SAMPLE_H
#define RUNTIME_SAMPLE_H

#include <stdbool.h>
#include <stdint.h>

#include "shm/rates.h"

enum {
    SAMPLE_LOOKS = 64, /* threads a tick, of each kind: in actions and outside */
    SAMPLE_READS = 16, /* stacks a tick, of each kind */
};

/** Reserve the memory (once a process). 0 or -ENOMEM with fault_text(). GIL held. */
int sample_open(void);

/** In the sampler thread, before its first tick. 0, or -errno with fault_text() if no memory can be copied.
 */
int sample_begin(void);
void sample_end(void);

/** One tick, which stands for `spans` intervals. `random` is a fresh uniform number. */
void sample_tick(const struct rates *rates, bool others, uint64_t spans, uint64_t random);

/** Another segment: what samples repeat was defined in the former one. The sampler rests. */
void sample_begin_segment(void);

/** The child of a fork: ids, clocks and addresses of the parent's threads mean nothing here. */
void sample_after_fork(void);

#endif
