/*
 * Pages: the two small files of a pool that its workers map, `budget` and `rates` (shm/budget.h,
 * shm/rates.h).
 *
 * Made when a pool is found, mapped again by an aggregator that takes over, never replaced while the folder
 * lives: workers keep their mapping. They belong to the pool's uid, who may cut them short at any time, so
 * they are touched under the guard. Where one was cut, everything here fails without harm until pages_open
 * has put it back.
 */
#ifndef AGGREGATOR_PAGES_H
#define AGGREGATOR_PAGES_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "shm/budget.h"
#include "shm/rates.h"

struct pages {
    struct budget_page *budget; /* mapped */
    struct rates_page *rates;
};

/**
 * Map the pages in a pool's folder; make what is not there, restore what was cut. May be called again at any
 * time. 0, or -errno with fault_text(): then what was mapped before stays.
 */
int pages_open(struct pages *pages, const char *folder, uid_t uid);

void pages_close(struct pages *pages);

/** All below: false if the page was cut. */

/** Tell that the aggregator lives, by CLOCK_MONOTONIC in ns. */
bool pages_heartbeat(const struct pages *pages, uint64_t now_ns);

/** Put new rates in the place of the old ones, which readers see whole: either those or these. */
bool pages_publish(const struct pages *pages, const struct rates *rates);

/** budget_listen: before the lanes are looked at. */
bool pages_listen(const struct pages *pages);

/** What was published last; false also if nothing ever was. */
bool pages_published(const struct pages *pages, struct rates *rates);

/** budget_audit by the clock as it is now; `*damaged` tells whether the word had to be set back. */
bool pages_audit(const struct pages *pages, uint64_t cycle_ns, bool *damaged);

/** Most tokens ever taken in one cycle; 0 if the page was cut. */
uint64_t pages_peak(const struct pages *pages);

#endif
