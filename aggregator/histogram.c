/* Sparse latency histogram: see histogram.h. */
#include "aggregator/histogram.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "shm/counters.h"
#include "shm/fault.h"

int histogram_add(struct histogram *histogram, uint32_t bucket, uint64_t count)
{
    uint32_t low = 0, high = histogram->used;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (histogram->entry[middle].bucket < bucket)
            low = middle + 1;
        else
            high = middle;
    }
    if (low < histogram->used && histogram->entry[low].bucket == bucket) {
        histogram->entry[low].count += count;
        return 0;
    }
    if (histogram->used == histogram->room) {
        uint32_t room = histogram->room == 0 ? 8 : histogram->room * 2;
        struct histogram_entry *entry = realloc(histogram->entry, room * sizeof *entry);
        if (entry == NULL)
            return fault(ENOMEM, "histogram");
        histogram->entry = entry;
        histogram->room = room;
    }
    memmove(histogram->entry + low + 1, histogram->entry + low,
            (histogram->used - low) * sizeof *histogram->entry);
    histogram->entry[low] = (struct histogram_entry){.count = count, .bucket = bucket};
    histogram->used++;
    return 0;
}

int histogram_merge(struct histogram *into, const struct histogram *from)
{
    int rc = 0;
    for (uint32_t i = 0; i < from->used && rc == 0; i++)
        rc = histogram_add(into, from->entry[i].bucket, from->entry[i].count);
    return rc;
}

void histogram_close(struct histogram *histogram)
{
    free(histogram->entry);
    memset(histogram, 0, sizeof *histogram);
}

uint64_t histogram_total(const struct histogram *histogram)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < histogram->used; i++)
        total += histogram->entry[i].count;
    return total;
}

double histogram_quantile(const struct histogram *histogram, double q, uint64_t max_ns)
{
    double wanted = q * (double)histogram_total(histogram), before = 0;
    for (uint32_t i = 0; i < histogram->used; i++) {
        const struct histogram_entry *entry = &histogram->entry[i];
        if (before + (double)entry->count >= wanted) {
            double low = entry->bucket == 0 ? 0 : (double)histogram_lower_ns(entry->bucket);
            double high = (double)histogram_lower_ns(entry->bucket + 1);
            double value = low + (high - low) * (wanted - before) / (double)entry->count;
            return value < (double)max_ns ? value : (double)max_ns;
        }
        before += (double)entry->count;
    }
    return histogram->used == 0 ? 0 : (double)max_ns;
}
