/*
 * Standard errors of a report's figures: how far from the truth they may be because most actions were not
 * profiled, and those that were were looked at now and then. The formulas are in aggregator/spread.h.
 *
 * The truth lies within 1.96 of them for 95 figures in 100. So that it does also where few actions were
 * profiled, the variance between M of them is raised by M / (M - 3), which is close to what Student's
 * distribution asks for in place of M / (M - 1); of fewer than 4 no error can be told. A share of 0 or 1 that
 * a few actions show is no proof that there is nothing else: the error is at least that of one more action,
 * or of one more tick where all were profiled.
 *
 * NAN: it cannot be told.
 */
#ifndef AGGREGATOR_ENCODE_STANDARD_ERROR_H
#define AGGREGATOR_ENCODE_STANDARD_ERROR_H

#include <stdbool.h>

#include "aggregator/profile.h"

/** A figure whose 95 % interval reaches down to nothing is mostly noise. */
#define STANDARD_ERROR_NOISE 0.5

/** What all figures of a type rest on. */
struct standard_error {
    const struct type_totals *totals;
    double sampled; /* all of its sampled time, weighted, in s */
    double ticks;   /* t² / p of all of it, in s² */
    double actions; /* M of spread.h */
    uint64_t samples;
    bool whole_known; /* time outside any action has no exact wall time that it is a share of */
};

struct standard_error standard_error_of(const struct type_totals *totals, const struct cell *cell,
                                        uint32_t cells);

/** Of a figure that was sampled, `share` of the whole: the error as a share of the whole, too. */
double standard_error_share(const struct standard_error *basis, struct product own, struct product cross,
                            double ticks, double share);

/** Of the time in one state. */
double standard_error_state(const struct standard_error *basis, enum sample_state state, double share);

/** Of what was measured when profiled actions ended, as a share of their latency. */
double standard_error_run_delay(const struct type_totals *totals);
double standard_error_cpu(const struct type_totals *totals);

/** Of a share of the time of `actions` actions, at most: as if each were wholly of the figure, or not at all.
 * `squares`: their time squared, `whole`: their time. */
double standard_error_at_most(uint32_t actions, double squares, double whole, double share);

/** Is a figure with this error mostly noise? */
bool standard_error_is_noise(double error, double figure);

#endif
