/*
 * Merge: from records to windows. All that a pool has learned stands here: its names, its stacks, its open
 * actions, and the window that is being filled.
 *
 * No files, no clock, no shared memory: workers.c feeds it, tests do too. One thread.
 *
 * A round is one pass over all workers. An action whose end is read in a round is closed in a later one,
 * after the sampler's lane was drained once more, because a sample of it may still have been on its way.
 */
#ifndef AGGREGATOR_MERGE_H
#define AGGREGATOR_MERGE_H

#include <stdbool.h>
#include <stdint.h>

#include "aggregator/actions.h"
#include "aggregator/cluster.h"
#include "aggregator/names.h"
#include "aggregator/stacks.h"
#include "aggregator/windows.h"
#include "shm/counters.h"

enum {
    MERGE_TYPES_TOLD = 1000, /* action types a pool; the rest is "(other)" */
    MERGE_TYPES_MOST = 1 + MERGE_TYPES_TOLD,
    MERGE_SLOW_FROM = 100,         /* ended actions of a type before it is said from when on one is slow */
    MERGE_CLASSED_FROM = 20,       /* ended actions of a type before any of them is called slow or typical */
    MERGE_STACKS_MOST = 256 << 10, /* distinct stacks a pool */
    MERGE_NAMES_MOST = 128 << 10,  /* distinct instructions a pool */
    MERGE_NAMES_BYTES = 16 << 20,
};

/** Latencies of a type, old ones fading, from which slow and typical are told. */
struct recent_latency {
    float total;
    float bucket[HISTOGRAM_BUCKETS];
    double median_ns, p95_ns;
    bool stale;
};

struct merge {
    struct names types;        /* 0: "(other)" */
    struct names texts;        /* files and functions, as workers name them */
    struct names instructions; /* "file:method:line" */
    struct stacks stacks;
    struct actions actions;
    struct cluster cluster; /* of the action that is being settled */
    struct window *open;
    struct recent_latency *recent[MERGE_TYPES_MOST];
    uint32_t settled[MERGE_TYPES_MOST]; /* nested actions of the family that is being closed */
    uint64_t ended[MERGE_TYPES_MOST];   /* actions counted since the caller looked last */
    uint64_t round;
    uint32_t outside;    /* the type of time outside any action, 0: not seen yet */
    uint32_t unreadable; /* the stack of a sample that could not be read, 0: not seen yet */
    /** Called for each root that ends, before it is forgotten; may be NULL. */
    void (*on_root)(const struct merge *merge, uint32_t root, void *context);
    void *context;
};

/** 0 or -ENOMEM. */
int merge_open(struct merge *merge, uint64_t now_ns, uint64_t now_real_ns);

/** Free all of it; also what a failed merge_open has left. */
void merge_close(struct merge *merge);

/**
 * A record of an action lane or of a sampler lane, of the worker known by this number; type ids and stacks
 * are the pool's. 0, or -EPROTO for what no honest worker says: an action begun twice.
 */
int merge_begin(struct merge *merge, uint32_t worker, uint32_t type, const struct record_begin *begin);
void merge_end(struct merge *merge, uint32_t worker, uint32_t type, const struct record_end *end);
void merge_sample(struct merge *merge, uint32_t worker, uint32_t stack, const struct record_sample *sample);

/** What was logged inside an action; `text` has the message's length. */
void merge_message(struct merge *merge, uint32_t worker, const struct record_message *message,
                   const char *text);

/** What was counted of one type since the last call. `latency_max_ns` is 0 unless it grew. */
struct merge_count {
    uint64_t count, errors, profiled, latency_sum_ns, latency_max_ns;
    uint32_t denied[DENIALS];
};
/** The totals to add to; the caller adds the buckets by merge_bucket. NULL without memory. */
struct type_totals *merge_count(struct merge *merge, uint32_t type, const struct merge_count *count);

/** So many of them had a latency in that flat bucket (shm/counters.h). */
void merge_bucket(struct merge *merge, struct type_totals *totals, uint32_t bucket, uint64_t count);

/** Close the actions of a worker whose end was read before this round (all: in this one too). */
void merge_close_ended(struct merge *merge, uint64_t before_round);

/** A worker that will write no more was drained to its end: close all its actions that have ended. */
void merge_close_worker(struct merge *merge, uint32_t worker);

/** A worker is gone: what of its actions is still open will never end. */
void merge_forget_worker(struct merge *merge, uint32_t worker);

/** Latencies that were counted in an earlier life: told slow from typical by, not counted again. */
void merge_recall(struct merge *merge, const struct type_totals *totals);

/** Let old latencies fade (once a window). */
void merge_fade(struct merge *merge);

/**
 * How long actions of the type last at the most, but for a twentieth of them: from then on one may be called
 * slow while it still runs. `*beyond` is the share of those that last longer. 0: not known yet, or too short
 * for samples at `interval_ns` to tell anything of it.
 */
uint64_t merge_slow_after(struct merge *merge, uint32_t type, uint64_t interval_ns, double *beyond);

/** Weight of an action: one over its probability of admission. */
static inline double merge_weight(const struct record_begin *begin)
{
    return 4294967296.0 / ((double)begin->probability + 1.0);
}

#endif
