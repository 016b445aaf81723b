/*
 * Admission: how the cap on newly profiled actions is shared out, so that rare actions are profiled too.
 *
 * The budget word alone would serve whoever comes first, and rare actions would never be seen. So each
 * type that was seen gets a stratum of its own, as far as there are (shm/strata.h), and each stratum gets a
 * probability, such that 0.75 of the cap is expected to be used: equal shares, what a stratum does not need
 * is spread over the rest (water-filling). The demand of a stratum is the average of the last
 * ADMISSION_CYCLES cycles, or that of the last one if it is more. Probabilities fall at once and rise by at
 * most a fifth a cycle; but a stratum that was not known before gets its share as soon as it shows. One that
 * is its owner's alone keeps its probability while it is not seen: a rare type is profiled when it comes
 * again. One that others may turn up in gets the lowest of all, since that may be the busiest of all.
 *
 * Where demand is below three quarters of the cap, all are admitted, in the end; without a cap at once.
 *
 * Late admission is for what turns out slow: an action that the lottery denied and that still runs after its
 * type's moment may be profiled from then on, for a token of its own.
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
#define ADMISSION_LATE 0.1     /* of the cap, for late admissions */
#define ADMISSION_STANDBY 0.05 /* of candidates, to be admitted late: more are not noted for that share */

struct admission {
    uint64_t demand[ADMISSION_CYCLES][STRATA];
    uint32_t next;
    double probability[STRATA]; /* 0: none yet */
    bool known[STRATA];         /* showed in the last cycles */
    uint32_t owner[STRATA_OWNED];
};

/**
 * One cycle: `demand` root actions were begun in each stratum; at most `cap` (0: any) may be profiled in the
 * next. `out` gets each stratum's probability as rates.h writes it.
 */
void admission_step(struct admission *admission, const uint64_t demand[STRATA], uint32_t cap,
                    uint32_t out[STRATA]);

/**
 * Before a cycle's step: `count` actions of the type with this hash were counted in it. It is given a stratum
 * if it has none, and there is one that nobody owns, whose owner is not seen any more, or whose owner is four
 * times rarer than it.
 */
void admission_own(struct admission *admission, uint32_t hash, uint64_t count);

/** Begin with what another controller had set: raises are counted from there. */
void admission_resume(struct admission *admission, const uint32_t probability[STRATA],
                      const uint32_t owner[STRATA_OWNED]);

/** From when on actions of the type that has a stratum to itself may be admitted late. */
struct admission_moment {
    uint64_t after_ns; /* 0: not known */
    double beyond;     /* the share of them that last longer */
};

/** What rates.h tells of late admission. */
struct admission_late {
    uint32_t after_us[STRATA_OWNED], probability[STRATA_OWNED];
};

/**
 * After a cycle's step, which gave `probability`: strata whose moment is known share ADMISSION_LATE of `cap`
 * alike. Each gets the probability (at the begin and late together) with which so many are expected to be
 * admitted late, as far as candidates may be noted for that.
 */
void admission_late(const struct admission *admission, const struct admission_moment moment[STRATA_OWNED],
                    uint32_t cap, const uint32_t probability[STRATA], struct admission_late *out);

/** The stratum that the type with this hash has to itself; STRATA if it has none. */
uint32_t admission_place(const struct admission *admission, uint32_t hash);

/** A probability as rates.h writes it: (p + 1) / 2^32. */
uint32_t admission_encode(double probability);

#endif
