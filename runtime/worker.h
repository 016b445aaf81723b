/*
 * Worker: this process's place in the pool: its segment, its life from the first action to exit, and fork.
 *
 * Everything is lazy. worker_enable only notes the settings; the segment, the request files and the sampler
 * thread come with the first action, in the process where it runs (servers load us in a master, fork, and
 * drop privileges after that).
 *
 * Fork: the child has no segment (MADV_DONTFORK), no sampler, and open actions that are not its own. A
 * pthread_atfork handler resets it; a page that the kernel wipes on fork is tested at each entry as well, for
 * children that were made without running such handlers. Each process in a line of forks has its own
 * `worker.generation`, and a handle of another generation is ignored.
 *
 * Unless said otherwise a function here is called with the GIL held.
 */
#ifndef RUNTIME_WORKER_H
#define RUNTIME_WORKER_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/meter.h"
#include "shm/segment.h"

struct worker_settings {
    char directory[DIRECTORY_PATH_MAX];
    char pool[DIRECTORY_PATH_MAX];
    char source[DIRECTORY_SOURCE_MAX + 1];
    char aggregator[DIRECTORY_PATH_MAX]; /* program to start; "": never start one */
    uint32_t python_hexversion;
    uid_t uid;                 /* effective one for which `directory` and `pool` were made */
    bool directory_is_default; /* it follows from the user: another one after setuid() */
    bool process;              /* threads outside actions will be sampled as well */
};

struct worker {
    bool enabled;
    bool attached;
    bool check_failed;
    uint32_t generation;
    uint32_t attachment; /* how many attachments there were in this process and those it was forked from */
    uint64_t retry_ns;   /* no attempt to attach before */
    uint64_t attached_ns;
    char reason[256]; /* why profiling is off, "" if it is not */
    struct worker_settings settings;
    struct segment segment;
    struct meter meter;
    bool seeded;
    uint64_t random[4];              /* xoshiro256** state */
    _Atomic bool want_fresh_segment; /* set by the sampler when its definition area is full */
    uint64_t renew_ns;               /* no attempt to renew the segment before */
    uint64_t renew_asked_ns;         /* when the sampler was first asked to rest for it; 0: it was not */
};

extern struct worker worker;
extern uint32_t *worker_sentinel; /* 0 in a child that has not noticed it is one */

/** Once, when the extension is loaded. */
void worker_open(void);

/** Switch profiling on here and in every process forked from here. 0, or -errno with fault_text(). */
int worker_enable(const struct worker_settings *settings);

/** New actions are ignored from now on. */
void worker_disable(void);

/** The slow way into worker_ready. */
bool worker_attach(uint64_t now_ns);

/** Reset everything that a child must not share. Any thread of the child, without the GIL. */
void worker_after_fork(void);

/** The interpreter is going away: mark the segment CLOSED. */
void worker_close(void);

/**
 * The definition areas are full: go on in a fresh segment if nothing is being profiled and the sampler rests.
 * Called at a root's begin; false means: do not profile this one, so that this will soon be so. That is the
 * answer for a second at most; where something is being profiled for longer, it is tried again later.
 */
bool worker_renew_segment(uint64_t now_ns);

/** A uniform random 64-bit number. */
uint64_t worker_random(void);

/** Copy the meter into the segment. */
static inline void worker_publish_meter(void)
{
    atomic_store_explicit(&worker.segment.worker->hooks, worker.meter.hooks, memory_order_relaxed);
    atomic_store_explicit(&worker.segment.worker->hook_cpu_ns, worker.meter.cost_ns, memory_order_relaxed);
    worker.meter.published_hooks = worker.meter.hooks;
}

/** Has this very process a segment? */
static inline bool worker_is_attached(void)
{
    return worker.attached && *worker_sentinel != 0;
}

/** Is profiling on in this process? Attaches it if it is not yet. A few ns when it is. */
static inline bool worker_ready(uint64_t now_ns)
{
    if (!worker.enabled)
        return false;
    if (*worker_sentinel == 0)
        worker_after_fork();
    return worker.attached || worker_attach(now_ns);
}

#endif
