/*
 * Histogram: latencies of one action type, in the buckets of shm/counters.h, of which few are in use.
 */
#ifndef AGGREGATOR_HISTOGRAM_H
#define AGGREGATOR_HISTOGRAM_H

#include <stdint.h>

struct histogram_entry {
    uint64_t count;
    uint32_t bucket;
    uint32_t pad;
};

struct histogram {
    uint32_t used, room;
    struct histogram_entry *entry; /* by bucket, ascending */
};

/** Add `count` to a bucket. 0 or -ENOMEM. */
int histogram_add(struct histogram *histogram, uint32_t bucket, uint64_t count);

/** Add all of `from`. 0 or -ENOMEM. */
int histogram_merge(struct histogram *into, const struct histogram *from);

void histogram_close(struct histogram *histogram);

/** How many values it holds. */
uint64_t histogram_total(const struct histogram *histogram);

/**
 * The value in ns below which the share `q` (0 … 1) of all values lies; inside a bucket values are taken to
 * be spread evenly. Never more than `max_ns`, the largest value known. 0 if empty.
 */
double histogram_quantile(const struct histogram *histogram, double q, uint64_t max_ns);

#endif
