/*
 * Workers: one profiled process each, as the aggregator sees it through its segment.
 *
 * Order of reading (pairs with shm/lane.h): the sampler's tail first, the action lane's tail next, then how
 * far the definitions go, all with acquire; lanes and definitions are then read with pread into private
 * memory up to there. So whatever action a sample belongs to has begun in what was read, and every definition
 * that a record uses is known.
 *
 * What is read is not trusted: a worker that breaks the rules is quarantined, that is: told of once, read no
 * more, and its file is removed when its process is dead.
 */
#ifndef AGGREGATOR_WORKERS_H
#define AGGREGATOR_WORKERS_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "aggregator/symbols.h"
#include "aggregator/taken.h"
#include "shm/segment.h"

enum {
    WORKER_FILE_BYTES_MOST = 16 << 20,
    WORKER_COMING_S = 60, /* for a foreign one to take hold of its mutex, or to show itself in another way */
};

/** What the last checkpoint says of a worker, beside struct taken. */
struct worker_kept {
    bool known;
    bool quarantined;
    uint64_t position[SEGMENT_LANES];
    uint64_t cpu_ns;
};

/** What a worker says that our parts in it cost (claims.h). */
struct claim {
    uint64_t sampler_ns, hook_ns;
};

struct worker {
    struct worker *next, *next_named; /* in its pool */
    uint32_t number;                  /* in this aggregator's life; what merge.h knows it by */
    uint64_t hash;                    /* of the uuid: what windows know it by */
    char path[DIRECTORY_PATH_MAX];
    struct segment_header header;          /* a private, checked copy */
    int fd, pidfd;                         /* pidfd -1: none (another pid namespace, or dead) */
    struct worker_page *page;              /* mapped; touched under guard_run only */
    struct aggregator_page *aggregator;    /* the page behind it */
    const struct counters *counters;       /* mapped */
    uint64_t position[SEGMENT_LANES];      /* how far the lanes were merged */
    uint64_t stored[SEGMENT_LANES];        /* what was last stored as head */
    uint64_t defined[SEGMENT_DEFINITIONS]; /* how far the definitions were read */
    struct symbols symbols;
    struct taken taken;
    struct worker_kept kept;
    uint64_t attached_ns;       /* CLOCK_MONOTONIC, when we found it */
    uint64_t moved_ns;          /* when something new was last found in it, or it itself */
    uint64_t cpu_ns;            /* process CPU as last measured */
    uint64_t samples, dropped;  /* merged and lost, since we found it */
    double fill;                /* the fullest lane at the last drain, 0 … 1 */
    unsigned final_rounds;      /* rounds without anything new after its end */
    uint32_t sampler_tid;       /* as it says; 0: none yet */
    struct claim claimed;       /* what claims_take took */
    uint64_t kernel_sampler_ns; /* CPU of that thread as the kernel said last; 0: it was not asked */
    bool disbelieved;           /* its claims were found wrong */
    bool foreign;               /* of another pid namespace: only the mutex in its segment tells of its end */
    bool dead;                  /* its process has gone */
    bool closed;                /* it said that it will write no more */
    bool final;                 /* drained to its end: may be removed after a checkpoint */
    bool quarantined;
};

/**
 * Look at a file of a pool's rings/ and attach to it. 0; -EPROTO, -EPERM … with fault_text() if it is none of
 * ours to read; -ENOENT if it has gone.
 */
int worker_open(struct worker **out, const char *path, uid_t uid, uint32_t number);

/** The name of its file. */
static inline const char *worker_name(const struct worker *worker)
{
    const char *slash = strrchr(worker->path, '/');
    return slash != NULL ? slash + 1 : worker->path;
}

/** Where to begin in its lanes if no checkpoint knows it: at the heads. 0 or -EPROTO. */
int worker_begin_at_heads(struct worker *worker);

/**
 * What its segment says beside what the checkpoint says: heads are stored after a commit only, so one that is
 * ahead of us tells that a committed checkpoint was lost. What lies before it has been overwritten perhaps,
 * and is not read. Returns whether there was such a one; -EPROTO.
 */
int worker_catch_up(struct worker *worker);

void worker_close(struct worker *worker);

/**
 * Merge what is new. `seen` (may be NULL) is increased by the root actions begun of each stratum. Returns how
 * much was merged (0: nothing moved), or -EPROTO: then it is to be quarantined.
 */
int worker_drain(struct worker *worker, struct merge *merge, uint64_t seen[STRATA]);

/** Is its process there? Cheap; false is final. */
bool worker_alive(struct worker *worker);

/**
 * CPU that the process used since the last call, ours not taken off; ns. What only the worker itself says is
 * believed up to `most_ns`.
 */
uint64_t worker_cpu(struct worker *worker, uint64_t most_ns);

/** Store the heads: only after a checkpoint that holds the positions was renamed into place. */
void worker_store_heads(struct worker *worker);

#endif
