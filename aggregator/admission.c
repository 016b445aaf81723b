/* Sharing out the cap: see admission.h. */
#include "aggregator/admission.h"

#include <string.h>

#define RAISE 1.2

uint32_t admission_encode(double probability)
{
    double scaled = probability * 4294967296.0 - 1.0;
    return scaled >= 4294967295.0 ? UINT32_MAX : scaled <= 0 ? 0 : (uint32_t)scaled;
}

void admission_resume(struct admission *admission, const uint32_t probability[STRATA])
{
    for (unsigned s = 0; s < STRATA; s++) {
        admission->probability[s] = ((double)probability[s] + 1.0) / 4294967296.0;
        admission->known[s] = true;
    }
}

/* The share that each stratum gets of `capacity`, by rising demand: an equal part of what is left, or its
 * need. */
static void water_fill(const double peak[STRATA], double capacity, double share[STRATA])
{
    unsigned order[STRATA], n = 0;
    for (unsigned s = 0; s < STRATA; s++) {
        share[s] = 0;
        if (peak[s] <= 0)
            continue;
        unsigned at = n++;
        for (; at > 0 && peak[order[at - 1]] > peak[s]; at--)
            order[at] = order[at - 1];
        order[at] = s;
    }
    for (unsigned i = 0; i < n; i++) {
        double equal = capacity / (n - i);
        share[order[i]] = peak[order[i]] < equal ? peak[order[i]] : equal;
        capacity -= share[order[i]];
    }
}

void admission_step(struct admission *admission, const uint64_t demand[STRATA], uint32_t cap,
                    uint32_t out[STRATA])
{
    double peak[STRATA] = {0}, share[STRATA], total = 0, lowest = 1.0;
    memcpy(admission->demand[admission->next], demand, sizeof admission->demand[0]);
    admission->next = (admission->next + 1) % ADMISSION_CYCLES;
    for (unsigned s = 0; s < STRATA; s++) {
        for (unsigned c = 0; c < ADMISSION_CYCLES; c++)
            if (peak[s] < (double)admission->demand[c][s])
                peak[s] = (double)admission->demand[c][s];
        total += peak[s];
    }
    double capacity = ADMISSION_FILL * cap;
    bool quiet = cap == 0 || total < capacity;
    water_fill(peak, capacity, share);
    for (unsigned s = 0; s < STRATA; s++) {
        double wanted = quiet || peak[s] <= 0 ? 1.0 : share[s] / peak[s];
        double before = admission->probability[s];
        if (admission->known[s] && before > 0 && wanted > before * RAISE)
            wanted = before * RAISE;
        admission->known[s] = peak[s] > 0;
        admission->probability[s] = wanted;
        if (peak[s] > 0 && wanted < lowest)
            lowest = wanted;
    }
    for (unsigned s = 0; s < STRATA; s++) {
        /* A stratum that has not been seen may turn out to be the busiest of all. */
        if (peak[s] <= 0 && !quiet)
            admission->probability[s] = lowest;
        out[s] = admission_encode(admission->probability[s]);
    }
}
