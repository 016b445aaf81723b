/*
 * Report: what windows say, as the JSON object that `profilomatic report --json` prints and that `run -o`
 * saves.
 *
 * Times are seconds of the whole population: the sampled time of a type is scaled so that
 * cpu + native + gil_wait + blocked + runnable is its exact wall time. Runnable is the measured run delay of
 * profiled actions, as a share of their latency; it is taken out of cpu and native in proportion, in the
 * whole and line by line; see lines_self_state for how a line is named then.
 *
 * Beside each estimate stands its standard error, in an object `se` under the same key, null where it cannot
 * be told, and what is mostly noise is marked so (standard_error.h). What `se` does not name is exact.
 */
#ifndef AGGREGATOR_ENCODE_REPORT_H
#define AGGREGATOR_ENCODE_REPORT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "aggregator/merge.h"
#include "aggregator/windows.h"

enum {
    REPORT_LIMIT = 20,        /* hot lines an action */
    REPORT_CLASSED_FROM = 20, /* profiled actions, before slow is set beside typical */
    REPORT_REASONS = 5,       /* rows of slow_because */
};
#define REPORT_LEAST_DIFFERENCE 0.02 /* of share, for a row of slow_because */

/** What a report says that windows do not hold. */
struct report_facts {
    const char *source;
    double max_overhead;
    uint32_t cap, cycle_ms;
    uint64_t max_in_a_cycle;
    uint64_t interval_ns;
    uint32_t granularity;
    bool paused, passthrough;
};

struct report_options {
    double seconds;     /* of the newest past; 0: all */
    const char *action; /* one type only; NULL: all */
    uint32_t limit;
    bool stacks;
    bool counts_only; /* of each type no more than what was counted */
};

/** A new object, or NULL without memory. Any thread that holds a reference to `list`. */
json_t *report_build(const struct merge *merge, const struct window_list *list,
                     const struct report_facts *facts, const struct report_options *options);

/** {"ratio", "budget", "sampler_cpu", "hook_cpu", "aggregator_cpu", "worker_cpu", "attached_seconds"}. */
json_t *report_overhead(const struct window_sums *sums, double budget);

#endif
