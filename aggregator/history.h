/*
 * History: what a pool's budget went into in the last hour, and each change of its limits with its reason.
 *
 * Plain memory that begins anew with the service; one writer and reader, the drain thread.
 */
#ifndef AGGREGATOR_HISTORY_H
#define AGGREGATOR_HISTORY_H

#include <stdbool.h>
#include <stdint.h>

#include "aggregator/budget.h"

enum {
    HISTORY_POINT_S = 10,
    HISTORY_POINTS = 3600 / HISTORY_POINT_S,
    HISTORY_DECISIONS = 256,
};

/** Some HISTORY_POINT_S seconds. CPU in seconds. */
struct history_point {
    uint64_t start_real_ns; /* 0: none */
    double seconds;
    double sampler_cpu, hook_cpu, aggregator_cpu, worker_cpu;
    double attached, demand, admitted; /* as in struct budget_measure */
    double overhead;                   /* the highest of a trailing window that ended in it */
    uint64_t interval_ns;              /* the longest */
    uint32_t granularity;              /* the coarsest */
    uint32_t paused, passthrough;      /* cycles */
};

/** One change of the limits. */
struct history_decision {
    uint64_t real_ns;
    double overhead; /* of the trailing window it was made after */
    struct budget_limits from, to;
};

struct history {
    struct history_point point[HISTORY_POINTS];
    uint64_t points; /* ever begun; the newest is point[(points - 1) % HISTORY_POINTS] */
    struct history_decision decision[HISTORY_DECISIONS];
    uint64_t decisions; /* ever made */
};

/** A cycle that ended at `real_ns`: what it cost, and the limits before and after it. */
void history_note(struct history *history, const struct budget_measure *measure,
                  const struct budget_limits *from, const struct budget_limits *to, double overhead,
                  uint64_t real_ns);

/** The limits were changed, also within a cycle. Nothing is kept where they are the same. */
void history_decide(struct history *history, const struct budget_limits *from, const struct budget_limits *to,
                    double overhead, uint64_t real_ns);

/** The number of the oldest decision (point) that is kept; the newest is `decisions - 1` (`points - 1`). */
uint64_t history_first_decision(const struct history *history);
uint64_t history_first_point(const struct history *history);

#endif
