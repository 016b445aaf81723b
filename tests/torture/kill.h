/*
 * Kill: what the parts of the torture by SIGKILL share. See kill_driver.c for what it proves.
 *
 * A life is one segment of one writer. Its writer keeps a ledger of what it has committed, in memory that
 * outlives it. No ledger can be written at the same instant as what it tells of; so the writer says before
 * each record what it is about to put, and after it writes the new totals into the half of the ledger that is
 * not current and makes it current by one store. When it has been killed the driver looks at the segment's
 * own tail: if it has moved past what the ledger says, the record that was about to be put is there, else it
 * is not. Nothing is left to "one more or less".
 */
#ifndef TORTURE_KILL_H
#define TORTURE_KILL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "shm/segment.h"

enum {
    LIVES_MOST = 6000,
    CLASSES = 300, /* lives share action types: root, nested and counted ones each of a class */
    TOKEN_CYCLES = 4096,
    TOKENS_A_CYCLE = 40,
    COUNTED_NS = 1000000, /* latency of every counted action */
};

/** Sums over samples. Each sample's wall time is its number, so that two that stand in for each other differ.
 */
struct sums {
    uint64_t samples, wall, cpu;
};

enum op_kind {
    OP_NONE,
    OP_OUTSIDE, /* a sample outside any action */
    OP_BEGIN_ROOT,
    OP_BEGIN_NESTED,
    OP_SAMPLE_ROOT,
    OP_SAMPLE_NESTED,
    OP_END_NESTED,
    OP_END_ROOT,
};

/** What is about to be put. */
struct op {
    uint32_t kind; /* enum op_kind */
    uint32_t lane;
    uint64_t wall, cpu, latency;
};

struct book {
    uint64_t tail[SEGMENT_LANES], lost[SEGMENT_LANES];
    uint64_t samples;                      /* all that were put */
    uint64_t refused;                      /* records that found no room */
    struct sums outside, root, nested;     /* of actions that have ended, and of none */
    struct sums open_root, open_nested;    /* of those that are open */
    uint64_t ended_root, ended_nested;     /* actions whose end was put */
    uint64_t latency_root, latency_nested; /* of these */
    uint64_t unended;                      /* whose end found no room */
    bool root_is_open, nested_is_open;
};

enum stage {
    STAGE_NONE,
    STAGE_MADE,   /* the writer has made its segment */
    STAGE_MAPPED, /* the driver looks at it: begin */
    STAGE_FINAL,  /* its writer is dead; the truth is known */
};

struct life {
    _Atomic uint32_t stage;
    pid_t pid;
    char path[DIRECTORY_PATH_MAX];
    struct op pending;
    _Atomic uint32_t current; /* the half of the ledger that counts */
    struct book book[2];
    /* the driver's: */
    const uint8_t *mapped;
    uint64_t mapped_bytes;
    struct book truth;
    /* counted actions: those that were counted whole, and those of which the count, or the bucket, was */
    uint64_t counted, counted_half, counted_bucket;
    uint64_t hooks, admitted;
};

struct shared {
    _Atomic uint32_t lives;
    _Atomic uint32_t stop;
    _Atomic uint64_t wrong_rates; /* rates that no aggregator published */
    _Atomic uint32_t tokens[TOKEN_CYCLES];
    struct life life[LIVES_MOST];
};

/** What happens to a ledger when an op's record was put, or was dropped because the lane was full. */
void book_apply(struct book *book, const struct op *op, bool put);

/** A writer, until it is killed or told to stop. `label` (NULL: none) is the test point to die at. */
_Noreturn void writer_run(struct shared *shared, const char *pool, const char *label, unsigned n,
                          uint64_t seed);

/** A writer is dead: look at what its lives left, and let go of their segments. */
void lives_settle(struct shared *shared, pid_t pid);

/** Map the segments that writers have made, so that they may begin. */
void lives_map(struct shared *shared);

/**
 * Compare what the pool's windows hold, and what the report tells of them, with the ledgers. Prints what
 * differs; returns how many things do.
 */
unsigned verify(const struct shared *shared, const char *directory, const char *name, const char *report);

#endif
