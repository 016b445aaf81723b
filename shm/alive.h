/*
 * Alive: proof across pid namespaces that a worker's process is there.
 *
 * A pid means nothing to an aggregator in another pid namespace, and silence proves nothing: a worker may be
 * idle or stopped. So the sampler thread holds a robust mutex in its segment from its start until it ends,
 * whatever ends it. It guards nothing and nobody ever waits for it. When its holder has gone, by exit, exec
 * or SIGKILL, the kernel sets FUTEX_OWNER_DIED in the mutex's futex word.
 *
 * Ordering: `holder` is stored (release) after the mutex was taken, and loaded (acquire) before the word is.
 *
 * The other side reads that one word and never calls into pthreads, which would follow pointers that lie in a
 * segment. The word's place is told by the segment's header, so it needs to know no layout of libc's.
 */
#ifndef SHM_ALIVE_H
#define SHM_ALIVE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum alive_holder {
    ALIVE_COMING = 0, /* the sampler thread is about to take it */
    ALIVE_HELD = 1,   /* it did */
    ALIVE_NO_ONE = 2, /* there is no sampler thread: nothing can be told */
};

enum {
    ALIVE_BYTES = 64, /* room for a pthread_mutex_t of any libc */
};

/** In the worker's page; the mutex is the worker's own affair. */
struct alive {
    _Atomic uint32_t holder; /* enum alive_holder */
    uint32_t pad;
    uint64_t mutex[ALIVE_BYTES / 8];
};
_Static_assert(sizeof(struct alive) == 72, "part of the segment's layout");

/** Offset of the futex word in `struct alive`. */
uint32_t alive_word_offset(void);

/** Take it, on the thread that stands for the process. Once a segment. */
void alive_hold(struct alive *alive);

/** The same thread lets go of it, before the segment is unmapped. Does nothing where it was not taken. */
void alive_release(struct alive *alive);

/** Nobody will take it. */
void alive_renounce(struct alive *alive);

/** Has its holder gone? From `holder` and the futex word. */
bool alive_is_over(uint32_t holder, uint32_t word);

#endif
