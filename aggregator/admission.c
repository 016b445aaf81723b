/* Sharing out the cap: see admission.h. */
#include "aggregator/admission.h"

#include <string.h>

#define RAISE 1.2

uint32_t admission_encode(double probability)
{
    double scaled = probability * 4294967296.0 - 1.0;
    return scaled >= 4294967295.0 ? UINT32_MAX : scaled <= 0 ? 0 : (uint32_t)scaled;
}

void admission_resume(struct admission *admission, const uint32_t probability[STRATA],
                      const uint32_t owner[STRATA_OWNED])
{
    memcpy(admission->owner, owner, sizeof admission->owner);
    for (unsigned s = 0; s < STRATA; s++) {
        admission->probability[s] = ((double)probability[s] + 1.0) / 4294967296.0;
        admission->known[s] = true;
    }
}

/* What is expected of the next cycle: the average of the last ones, or the last if that is more. */
static double demand_of(const struct admission *admission, uint32_t stratum)
{
    double sum = 0,
           last = (double)
                      admission->demand[(admission->next + ADMISSION_CYCLES - 1) % ADMISSION_CYCLES][stratum];
    for (unsigned c = 0; c < ADMISSION_CYCLES; c++)
        sum += (double)admission->demand[c][stratum];
    return sum / ADMISSION_CYCLES > last ? sum / ADMISSION_CYCLES : last;
}

/* What moves to a stratum of its own is taken out of the common one. */
static void move_demand(struct admission *admission, uint32_t to, uint32_t common, uint64_t count)
{
    for (unsigned c = 0; c < ADMISSION_CYCLES; c++) {
        uint64_t *left = &admission->demand[c][common];
        admission->demand[c][to] = 0;
        *left -= *left < count ? *left : count;
    }
    admission->demand[(admission->next + ADMISSION_CYCLES - 1) % ADMISSION_CYCLES][to] = count;
    admission->known[to] = admission->known[common] = false;
}

uint32_t admission_place(const struct admission *admission, uint32_t hash)
{
    for (uint32_t i = 0; i < STRATA_PLACES && hash != 0; i++)
        if (admission->owner[strata_place(hash, i)] == hash)
            return strata_place(hash, i);
    return STRATA;
}

void admission_own(struct admission *admission, uint32_t hash, uint64_t count)
{
    uint32_t place = STRATA;
    double least = (double)count / 4;
    if (admission_place(admission, hash) != STRATA)
        return;
    for (uint32_t i = 0; i < STRATA_PLACES; i++) {
        uint32_t at = strata_place(hash, i);
        double demand = admission->owner[at] != 0 ? demand_of(admission, at) : 0;
        if (demand >= least && demand > 0)
            continue;
        least = demand;
        place = at;
        if (admission->owner[at] == 0)
            break;
    }
    if (place == STRATA || hash == 0)
        return;
    admission->owner[place] = hash;
    move_demand(admission, place, strata_common(hash), count);
}

/* The share that each stratum gets of `capacity`, by rising demand: an equal part of what is left, or its
 * need. */
static void water_fill(const double expected[STRATA], double capacity, double share[STRATA])
{
    unsigned order[STRATA], n = 0;
    for (unsigned s = 0; s < STRATA; s++) {
        share[s] = 0;
        if (expected[s] <= 0)
            continue;
        unsigned at = n++;
        for (; at > 0 && expected[order[at - 1]] > expected[s]; at--)
            order[at] = order[at - 1];
        order[at] = s;
    }
    for (unsigned i = 0; i < n; i++) {
        double equal = capacity / (n - i);
        share[order[i]] = expected[order[i]] < equal ? expected[order[i]] : equal;
        capacity -= share[order[i]];
    }
}

void admission_step(struct admission *admission, const uint64_t demand[STRATA], uint32_t cap,
                    uint32_t out[STRATA])
{
    double expected[STRATA] = {0}, share[STRATA], total = 0, lowest = 1.0;
    memcpy(admission->demand[admission->next], demand, sizeof admission->demand[0]);
    admission->next = (admission->next + 1) % ADMISSION_CYCLES;
    for (unsigned s = 0; s < STRATA; s++) {
        expected[s] = demand_of(admission, s);
        total += expected[s];
    }
    double capacity = ADMISSION_FILL * cap;
    bool quiet = cap == 0 || total < capacity;
    water_fill(expected, capacity, share);
    for (unsigned s = 0; s < STRATA; s++) {
        double wanted = quiet || expected[s] <= 0 ? 1.0 : share[s] / expected[s];
        double before = admission->probability[s];
        bool owned = s < STRATA_OWNED && admission->owner[s] != 0;
        if (owned && expected[s] <= 0 && before > 0 && !quiet)
            wanted = before;
        if (cap != 0 && admission->known[s] && before > 0 && wanted > before * RAISE)
            wanted = before * RAISE;
        admission->known[s] = expected[s] > 0;
        admission->probability[s] = wanted;
        if (expected[s] > 0 && wanted < lowest)
            lowest = wanted;
    }
    for (unsigned s = 0; s < STRATA; s++) {
        bool owned = s < STRATA_OWNED && admission->owner[s] != 0;
        if (expected[s] <= 0 && !quiet && !owned)
            admission->probability[s] = lowest;
        out[s] = admission_encode(admission->probability[s]);
        if (!quiet && out[s] == UINT32_MAX)
            out[s]--; /* as good as 1, but to be lowered with the others when the cap is nearly used up */
    }
}

static double decode(uint32_t probability)
{
    return ((double)probability + 1.0) / 4294967296.0;
}

/* Is there anything to admit late? */
static bool may_be_late(const struct admission *admission, const struct admission_moment *moment, uint32_t s,
                        const uint32_t probability[STRATA])
{
    return admission->owner[s] != 0 && moment[s].after_ns != 0 && moment[s].beyond > 0 &&
           probability[s] != UINT32_MAX && demand_of(admission, s) > 0;
}

void admission_late(const struct admission *admission, const struct admission_moment moment[STRATA_OWNED],
                    uint32_t cap, const uint32_t probability[STRATA], struct admission_late *out)
{
    unsigned strata = 0;
    memset(out, 0, sizeof *out);
    for (uint32_t s = 0; s < STRATA_OWNED && cap != 0; s++)
        strata += may_be_late(admission, moment, s, probability);
    for (uint32_t s = 0; s < STRATA_OWNED && strata != 0; s++) {
        if (!may_be_late(admission, moment, s, probability))
            continue;
        double share = ADMISSION_LATE * cap / strata, at_begin = decode(probability[s]);
        double candidates =
            share / (moment[s].beyond > ADMISSION_STANDBY ? moment[s].beyond : ADMISSION_STANDBY);
        double late = candidates / demand_of(admission, s), after_us = (double)moment[s].after_ns / 1e3;
        out->after_us[s] = after_us < 4e9 ? (uint32_t)after_us + 1 : 0;
        out->probability[s] = out->after_us[s] != 0 ? admission_encode(at_begin + late) : 0;
    }
}
