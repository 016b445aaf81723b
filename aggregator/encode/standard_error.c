/* How sure figures are: see standard_error.h. */
#include "aggregator/encode/standard_error.h"

#include <math.h>

enum {
    FEWEST = 4, /* actions between which a variance can be told */
};

static double smaller(double a, double b)
{
    return a < b ? a : b;
}

/* What a variance between so many actions is raised by. */
static double few(double actions)
{
    return actions < FEWEST ? NAN : actions / (actions - (FEWEST - 1));
}

struct standard_error standard_error_of(const struct type_totals *totals, const struct cell *cell,
                                        uint32_t cells)
{
    struct standard_error basis = {.totals = totals, .whole_known = totals->count != 0};
    for (uint32_t i = 0; i < cells; i++) {
        basis.samples += cell[i].samples;
        basis.ticks += (double)cell[i].spread.ticks;
        for (int state = 0; state < SAMPLE_STATES; state++)
            basis.sampled += cell[i].wall[state] / 1e9;
    }
    double squares = (double)totals->spread.all.shed + (double)totals->spread.all.kept;
    basis.actions = basis.sampled * squares / (double)totals->spread.cubes;
    return basis;
}

/* sum(e²), of e = y - r z */
static double residual(double own, double cross, double all, double share)
{
    double sum = own - 2 * share * cross + share * share * all;
    return sum > 0 ? sum : 0;
}

static double variance_of(struct product own, struct product cross, struct product all, double share,
                          double by_tick, double actions)
{
    double shed = residual((double)own.shed, (double)cross.shed, (double)all.shed, share);
    double kept = residual((double)own.kept, (double)cross.kept, (double)all.kept, share);
    return few(actions) * shed + smaller(few(actions) * kept, by_tick);
}

double standard_error_share(const struct standard_error *basis, struct product own, struct product cross,
                            double ticks, double share)
{
    struct product all = basis->totals->spread.all;
    if (!basis->whole_known)
        share = 0; /* then it is the error of a sum */
    double by_tick = residual(ticks, ticks, basis->ticks, share);
    double variance = variance_of(own, cross, all, share, by_tick, basis->actions);
    double one_more = (double)all.shed / basis->actions +
                      smaller((double)all.kept / basis->actions, basis->ticks / (double)basis->samples);
    return sqrt(variance < one_more ? one_more : variance) / basis->sampled;
}

double standard_error_state(const struct standard_error *basis, enum sample_state state, double share)
{
    const struct type_spread *spread = &basis->totals->spread;
    return standard_error_share(basis, spread->own[state], spread->cross[state], (double)spread->ticks[state],
                                share);
}

/* They were measured to the end: of those that were profiled nothing is left to chance. */
double standard_error_run_delay(const struct type_totals *totals)
{
    const struct type_spread *spread = &totals->spread;
    double variance = variance_of(spread->run_own, spread->run_cross, spread->run_latency,
                                  totals->run_delay / totals->run_latency, 0, (double)totals->ended);
    return sqrt(variance) / (totals->run_latency / 1e9);
}

double standard_error_cpu(const struct type_totals *totals)
{
    const struct type_spread *spread = &totals->spread;
    double variance = variance_of(spread->cpu_own, spread->cpu_cross, spread->cpu_latency,
                                  totals->cpu / totals->cpu_latency, 0, (double)totals->ended);
    return sqrt(variance) / (totals->cpu_latency / 1e9);
}

double standard_error_at_most(uint32_t actions, double squares, double whole, double share)
{
    double held = (share * actions + 0.5) / (actions + 1.0); /* never quite 0 or 1 */
    return sqrt(few(actions) * squares * held * (1 - held)) / whole;
}

bool standard_error_is_noise(double error, double figure)
{
    return !(error <= STANDARD_ERROR_NOISE * figure);
}
