/*
 * What the registry of destinations (destination.c) and their delivery thread (delivery.c) share.
 *
 * The lock guards the registry, the queues and the counters, and is never held during a system call that may
 * wait. Batches and sinks belong to the thread alone: it moves lines out of a queue under the lock and writes
 * or posts them without it. Only the thread takes a destination out of the list and frees it.
 */
#ifndef AGGREGATOR_DESTINATION_DELIVERY_H
#define AGGREGATOR_DESTINATION_DELIVERY_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "aggregator/destination/destination.h"
#include "aggregator/destination/file.h"
#include "aggregator/destination/line_queue.h"
#include "aggregator/destination/rest.h"
#include "aggregator/destination/spool.h"

enum {
    DESTINATIONS_MAX = 256,
    BATCH_BYTES_MAX = 1 << 20,
    GATHER_FILE_BYTES = 64 << 10, /* without `flush`: write when so much is there, or after a second */
};

struct batch {
    char *bytes; /* NULL: none */
    size_t length, done;
    uint64_t lines;
    unsigned answers;
    bool spooled; /* it is the first one of the spool as well */
    char key[SPOOL_KEY_BYTES];
};

struct destination {
    struct destination *next;
    int id;
    struct destination_spec spec; /* with strings of its own */
    char *target;

    /* guarded by the lock */
    struct line_queue queue;
    uint64_t waiting_since_ns; /* when the oldest queued line came */
    uint64_t put, delivered, failed, dropped;
    uint64_t inherited;      /* lines of `put` that an earlier life had left on disk */
    uint64_t spooled;        /* lines that wait on disk */
    uint64_t secure_until;   /* so many lines of `put` are wanted on disk, as far as they are not settled */
    uint64_t spool_failures; /* attempts to get them there that failed */
    uint64_t failures;       /* attempts that failed */
    uint64_t hurry_until;    /* deliver at once until so many lines of `put` are settled */
    bool failing;            /* the last attempt has failed */
    bool told_to_wait;       /* the server asked for a pause: do not hurry it */
    bool removed;
    uint64_t failures_at_removal;
    char last_error[256];

    /* the thread's own */
    struct batch batch; /* what is being delivered */
    struct batch spare; /* the one after it, which found no room on disk */
    bool posting, ailing;
    double pause_s;
    uint64_t not_before_ns;
    struct file_sink file;
    struct rest_sink *rest;
    struct spool spool;
    bool spool_tried, spool_ailing;
};

struct delivery {
    pthread_mutex_t lock;
    pthread_cond_t progress; /* something was settled or has failed */
    struct destination *first;
    unsigned count;
    int next_id;
    pthread_t thread;
    bool running, stopping;
    bool reopen; /* all files are to be opened afresh */
    int wake;    /* eventfd; -1: not started */
};

extern struct delivery delivery;

/** Lines that need no further attempt: delivered, given up or dropped. With the lock held. */
static inline uint64_t destination_settled(const struct destination *d)
{
    return d->delivered + d->failed + d->dropped;
}

/** Lines that the end of this process would not lose: settled, or on disk. With the lock held. */
static inline uint64_t destination_secured(const struct destination *d)
{
    return destination_settled(d) + d->spooled;
}

/** Free all of a destination that is not in the list. */
void destination_free(struct destination *d);

/** Make the thread look again. */
void delivery_ring(void);

/** The thread; returns once `stopping` is set, with the list empty. */
void *delivery_thread(void *unused);

#endif
