/*
 * Windows: a pool's past, cut in pieces of time that never change once they are closed.
 *
 * The drain thread adds to one open window. When its time is over it is rescaled, closed, and published with
 * the others as a list behind one RCU pointer; a report takes a reference to the list inside a read-side
 * section and then works on it at leisure, without stopping the drain. So that the past stays bounded and
 * whole, at most WINDOWS_MOST closed windows are kept, and fewer where they hold more than
 * WINDOWS_CELLS_MOST: beyond, the two neighbours that together are shortest, among the older half, become
 * one.
 *
 * A published list may end with a copy of the open window as it stood ("cut"), so that a report covers
 * everything up to now.
 */
#ifndef AGGREGATOR_WINDOWS_H
#define AGGREGATOR_WINDOWS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "aggregator/profile.h"
#include "shm/segment.h"

enum {
    WINDOWS_MOST = 64,
    WINDOWS_FEWEST = 8,          /* so many are kept apart, however much they hold */
    WINDOWS_CELLS_MOST = 131072, /* (type, stack) pairs in all of them: some 13 MB, also on disk */
    WINDOW_WORKERS_MOST = 4096,  /* distinct workers that are told apart in a window */
};

/** Plain totals of a window. All of them add up. */
struct window_sums {
    uint64_t samples, torn, unreadable, unattributed, retries, overflow;
    uint64_t dropped, dropped_bytes; /* records that found their lane full */
    uint64_t admitted, denied[DENIALS];
    uint64_t hooks, uncounted, other, coarse;
    uint64_t late;       /* samples whose action was closed or unknown */
    uint64_t unfinished; /* profiled actions whose end never came */
    uint64_t folded;     /* profiled actions whose samples could not be kept until the end */
    uint64_t quarantined;
    uint64_t sampler_cpu_ns, hook_cpu_ns, aggregator_cpu_ns, worker_cpu_ns;
    uint64_t attached_ns; /* sum over workers of the time they were attached */
};

struct window {
    _Atomic uint32_t references;
    uint64_t id;                         /* names its file; 0: has none */
    uint64_t start_ns, end_ns;           /* CLOCK_MONOTONIC */
    uint64_t start_real_ns, end_real_ns; /* CLOCK_REALTIME */
    struct window_sums sums;
    uint64_t *worker; /* hashes of the uuids of workers that contributed, ascending */
    uint32_t workers, workers_room;
    bool workers_touched; /* one was added since window_commit */
    struct profile profile;
};

struct window_list {
    _Atomic uint32_t references;
    uint32_t count;
    struct window *window[WINDOWS_MOST + 2]; /* oldest first */
};

struct windows {
    struct window *closed[WINDOWS_MOST + 1];
    uint32_t count;
    _Atomic(struct window_list *) published; /* RCU */
};

/** A new open window, or NULL. */
struct window *window_new(uint64_t now_ns, uint64_t now_real_ns);

/** Drop a reference. Any thread. */
void window_put(struct window *window);

/** Note that a worker contributed. */
void window_note_worker(struct window *window, uint64_t worker);

/** Add `from` (rescaled) to `into`, which then spans both. 0 or -ENOMEM. */
int window_merge(struct window *into, const struct window *from);

/** A copy, or NULL. */
struct window *window_copy(const struct window *window);

/** What is here has been kept: from now on only what changes is touched. */
void window_commit(struct window *window);

/** Does it hold anything but the cost of being attached? */
bool window_idle(const struct window *window);

/**
 * Take a complete window (rescaled here). Where some had to be merged, the merged window has id 0 and
 * the ones it was made of are passed to `dropped(id, context)`. 0 or -ENOMEM (nothing taken).
 */
int windows_close_one(struct windows *windows, struct window *window, void (*dropped)(uint64_t id, void *),
                      void *context);

/** Publish the closed windows, and a rescaled copy of `open` unless NULL. 0 or -ENOMEM. Drain thread. */
int windows_publish(struct windows *windows, const struct window *open);

/** The published list, to be given back by windows_release; NULL if none. Threads registered with RCU. */
struct window_list *windows_acquire(struct windows *windows);

void windows_release(struct window_list *list);

/** Drop all. No reader may be left. */
void windows_free(struct windows *windows);

#endif
