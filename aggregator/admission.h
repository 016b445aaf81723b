/*
 * Admission: how the cap on newly profiled actions is shared out, so that rare actions are profiled too.
 *
 * The budget word alone would serve whoever comes first, and rare actions would never be seen. So each
 * stratum of actions gets a probability, such that 0.75 of the cap is expected to be used: equal shares, what
 * a stratum does not need is spread over the rest (water-filling). The demand of a stratum is the most it
 * showed in one of the last ADMISSION_CYCLES cycles. Probabilities fall at once and rise by at most a fifth a
 * cycle; but a stratum that was not known before gets its share as soon as it shows.
 *
 * A pure function, without clock or I/O.
 */
#ifndef AGGREGATOR_ADMISSION_H
#define AGGREGATOR_ADMISSION_H

#include <stdbool.h>
#include <stdint.h>

#include "shm/rates.h"

enum {
    ADMISSION_CYCLES = 6,
};
#define ADMISSION_FILL 0.75

struct admission {
    uint64_t demand[ADMISSION_CYCLES][STRATA];
    uint32_t next;
    double probability[STRATA]; /* 0: none yet */
    bool known[STRATA];         /* showed in the last cycles */
};

/**
 * One cycle: `demand` root actions were begun in each stratum; at most `cap` (0: any) may be profiled in the
 * next. `out` gets each stratum's probability as rates.h writes it.
 */
void admission_step(struct admission *admission, const uint64_t demand[STRATA], uint32_t cap,
                    uint32_t out[STRATA]);

/** Begin with probabilities that another controller had set: raises are counted from them. */
void admission_resume(struct admission *admission, const uint32_t probability[STRATA]);

/** A probability as rates.h writes it: (p + 1) / 2^32. */
uint32_t admission_encode(double probability);

#endif
